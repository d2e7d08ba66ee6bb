#!/usr/bin/env bash
# What docs/transactions.md says of anomalies is what happens: on three real nodes, on one shard and over two, and in a
# directory.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/../integration/lib.sh"
it_cluster anomalies

documented=$(sed -n '/^| anomaly |/,/^$/p' "$root/docs/transactions.md" | tail -n +3 | sed '/^$/d')
[ -n "$documented" ] || fail "docs/transactions.md has no table of anomalies"
compare() {
    printf '%s\n' "$out"
    [ "$out" = "$documented" ] || fail "docs/transactions.md says: $documented"
}
step "three nodes, on one shard and over two"
expect 0 anomalies
compare
step "a directory"
expect 0 env CAIRN_ENDPOINTS="file://$dir/db?mode=disk" anomalies --one-shard
compare
