#!/usr/bin/env bash
# Graph fetch on a directory, beside the test's own walk.
set -euo pipefail
build=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for seed in 1 "$RANDOM"; do
    echo "seed $seed"
    rm -rf "$dir/heap"
    "$build/tests/graph/graph" "file://$dir/heap?mode=disk" 500 "$seed" | tee "$dir/out"
    grep -q '^500 objects, graphs as expected$' "$dir/out"
done
