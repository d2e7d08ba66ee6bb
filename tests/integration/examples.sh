#!/usr/bin/env bash
# The examples of the SDK do what they say, also a second time on what the first run left.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster ex1_hello ex2_list ex3_async ex8_types ex11_watch

for run in 1 2; do
    step "run $run"
    expect 0 ex1_hello
    has "$out" 'hello, cluster.*\(15 bytes, version [0-9]+\)'
    expect 0 ex2_list
    has "$out" "^$((run * 3)) nodes$"
    expect 0 ex3_async
    has "$out" '^10000 increments in flight, sum 10000$'
    expect 0 ex8_types
    has "$out" '^alice had 100 and has 42$'
    has "$out" "^accounts: $run$"
    expect 0 cairnctl obj show accounts/first
    has "$out" '^balance +i64 +0 42'
    expect 0 ex11_watch
    prices=$(for i in $(seq 0 9); do echo "price $i -> $((i + 1))"; done)
    [ "$(grep '^price [0-9]' <<<"$out")" = "$prices" ] || fail "not each price once, in order: $out"
    has "$out" '^going on from a token'
    [ "$(tail -n 2 <<<"$out")" = $'price-of-the-day set\nprice-of-the-day deleted' ] || fail "the root: $out"
done
step "two runs at once: the list's compare-and-set lets none be lost"
ex2_list >/dev/null &
expect 0 ex2_list
wait $!
expect 0 ex2_list
has "$out" '^15 nodes$'
step "the same list after all nodes were killed"
for n in 1 2 3; do cluster_kill $n; done
cluster_start
cluster_wait 60
expect 0 ex2_list
has "$out" '^18 nodes$'
expect 0 cairnctl replica check --timeout 30
