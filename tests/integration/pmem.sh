#!/usr/bin/env bash
# Pmem mode on tmpfs: three nodes lose nothing when all are killed at once under load, again and again; and a node that is told to
# use memory where there is none, or images that were made by the other mode, refuses with words.
build=$1
[ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] && [ -w /dev/shm ] || {
    echo "skipped: /dev/shm is no tmpfs that can be written to"
    exit 77
}
export TMPDIR=/dev/shm
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
disk_dir=''
it_cleanup() { [ -z "$disk_dir" ] || rm -rf "$disk_dir"; }
export PMEM_IS_PMEM_FORCE=1
# shellcheck disable=SC2034 # for cluster_init
CLUSTER_CONFIG="storage: {mode: pmem}
wal: {segment_bytes: 4M, disk_bytes_max: 64M}"
it_cluster counters
expect 0 cairnctl node storage -o json
jq -e '[.data.nodes[].storage] == ["pmem", "pmem", "pmem"]' >/dev/null <<<"$out" || fail "not all in pmem mode: $out"
expect 0 cairnctl heap create h --shards 2 --size 32M
cluster_wait 60
p=$(cairnctl obj alloc h --size 4K)
expect 0 cairnctl obj write "h/$p" --data "kept"

step "all nodes are killed three times while clients write"
counters h 20 4 >"$dir/load.json" 2>"$dir/load.log" &
load=$!
for _ in 1 2 3; do
    sleep 3
    for n in 1 2 3; do kill -KILL "${cluster_pids[n]}"; done
    for n in 1 2 3; do cluster_kill $n; done
    cluster_start
done
wait $load || { cat "$dir/load.log" "$dir/load.json" >&2; fail "the load found losses or was refused for good"; }
cat "$dir/load.json"
jq -e '.ok > 100 and .failed == 0' "$dir/load.json" >/dev/null || fail "too little was served: $(cat "$dir/load.json")"
cluster_wait 60
expect 0 cairnctl obj read "h/$p" --len 4 --file -
[ "$out" = kept ] || fail "read $out"
expect 0 cairnctl replica check --timeout 60

step "running heaps are checked and drawn while they change"
expect 0 cairnctl heap create busy --shards 2 --size 32M
counters busy 6 2 >"$dir/load.json" 2>"$dir/load.log" &
load=$!
looks=0
while kill -0 $load 2>/dev/null; do
    expect 0 cairnctl heap check busy -o json
    jq -e '.data.damage == 0 and .data.unchecked == 0 and (.data.images | length) == 6' >/dev/null <<<"$out" || fail "damage, or not all seen: $out"
    eventually 10 cairnctl heap map busy # what a shard's leader says; it may be on the move
    looks=$((looks + 1))
done
wait $load || fail "the load: $(cat "$dir/load.log" "$dir/load.json")"
[ $looks -gt 0 ] || fail "nobody looked"
compgen -G "$dir/n1/shards/*/image.pm" >/dev/null || fail "n1 holds no image of the pmem mode"
[ -z "$(compgen -G "$dir/n1/shards/*/super")" ] || fail "n1 holds an image of the disk mode"

refuses() { # n pattern
    local rv=0
    timeout 20 cairnd --config "$dir/n$1.yaml" >"$dir/refusal" 2>&1 || rv=$?
    [ $rv -eq 2 ] || fail "cairnd exited with $rv: $(cat "$dir/refusal")"
    has "$(cat "$dir/refusal")" "$2"
}

step "without persistent memory pmem mode is refused"
cluster_term 3
PMEM_IS_PMEM_FORCE=0 refuses 3 'storage.mode is pmem, but .*/n3 is not on persistent memory'
step "an image of the pmem mode is not taken for one of the disk mode"
sed -i 's/mode: pmem/mode: disk/' "$dir/n3.yaml"
refuses 3 'would run in disk mode, but .*image.pm was made in pmem mode'
sed -i 's/mode: disk/mode: auto/' "$dir/n3.yaml"
PMEM_IS_PMEM_FORCE=0 refuses 3 'would run in disk mode, but .*image.pm was made in pmem mode'
cluster_start 3
cluster_wait 60
cluster_term 3

disk_dir=$(mktemp -d "$build/cairn-pmem.XXXXXX")
if [ "$(stat -f -c %T "$disk_dir")" != tmpfs ]; then
    step "memory that is forced where there is none is refused"
    sed -i "s|^data_dir: .*|data_dir: $disk_dir/n3|" "$dir/n3.yaml"
    refuses 3 'PMEM_IS_PMEM_FORCE is set, but .* is neither on persistent memory nor on tmpfs'
    sed -i 's/mode: auto/mode: pmem/' "$dir/n3.yaml"
    refuses 3 'PMEM_IS_PMEM_FORCE is set, but .* is neither on persistent memory nor on tmpfs'
    step "a disk is a disk, though: the node joins in disk mode beside two in pmem mode"
    sed -i 's/mode: pmem/mode: disk/' "$dir/n3.yaml"
    cluster_start 3
    cluster_wait 60
    expect 0 cairnctl node storage -o json
    jq -e '[.data.nodes[].storage] == ["pmem", "pmem", "disk"]' >/dev/null <<<"$out" || fail "not as configured: $out"
    expect 0 cairnctl replica check --timeout 60
fi
