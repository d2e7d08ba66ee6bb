#!/usr/bin/env bash
# Transactions of the SDK on a real cluster: all that is claimed of them in a directory, and over several shards.
# The programs mostly wait for answers, so they run side by side.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster test_embed_tx test_embed_levels test_embed_leases test_embed_nulls test_embed_words

declare -A running
begin() { # SHARDS PROGRAM
    TX_SHARDS=$1 "$2" cluster >"$dir/$2-$1" 2>&1 </dev/null &
    running[$2-$1]=$!
}

step "transactions, one version of everything, and promised pointers; over several shards and on one"
begin 3 test_embed_tx
begin 1 test_embed_tx
begin 8 test_embed_levels
begin 1 test_embed_levels
begin 3 test_embed_leases
begin 1 test_embed_leases
for name in "${!running[@]}"; do
    wait "${running[$name]}" || fail "$name failed: $(tail -n 40 "$dir/$name")"
    has "$(cat "$dir/$name")" '\[  PASSED  \] [1-9][0-9]* test'
done

step "what is refused, and the words of failures: the same as in a directory"
for name in test_embed_nulls test_embed_words; do
    expect 0 env TX_SHARDS=3 "$name" cluster
    has "$out$err" '\[  PASSED  \] [1-9][0-9]* test'
done
