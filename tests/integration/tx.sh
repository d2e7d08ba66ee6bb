#!/usr/bin/env bash
# Transactions of the SDK on a real cluster: all that is claimed of them in a directory, and over several shards.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster test_embed_tx test_embed_levels test_embed_leases

step "transactions over three shards"
expect 0 env TX_SHARDS=3 test_embed_tx cluster
step "transactions on one shard"
expect 0 env TX_SHARDS=1 test_embed_tx cluster
step "one version of everything, on eight shards and on one"
expect 0 env TX_SHARDS=8 test_embed_levels cluster
expect 0 env TX_SHARDS=1 test_embed_levels cluster
step "promised pointers go back, on three shards and on one"
expect 0 env TX_SHARDS=3 test_embed_leases cluster
expect 0 env TX_SHARDS=1 test_embed_leases cluster
