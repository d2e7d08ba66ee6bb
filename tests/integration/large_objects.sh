#!/usr/bin/env bash
# Objects of every size from 1 byte to 64 MiB (64 chunks) are read back as they were written, also after a restart.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster
expect 0 cairnctl heap create big --shards 1 --size 256M
cluster_wait 60
head -c $((64 << 20)) /dev/urandom >"$dir/input"

sizes=(1 2 7 8 9 15 16 17 31 32 33 255 256 257 4095 4096 4097 65535 65536 65537 524287 524288 524289 1048576 4194305)
step "sizes ${sizes[*]}"
for size in "${sizes[@]}"; do
    head -c "$size" "$dir/input" >"$dir/part"
    expect 0 cairnctl obj alloc big --file "$dir/part"
    expect 0 cairnctl root set big "of-$size" "$out"
done
step "64 MiB"
expect 0 cairnctl obj alloc big --file "$dir/input" --timeout 120
expect 0 cairnctl root set big largest "$out"
step "nothing larger, nothing of no bytes"
printf 12 >"$dir/two"
expect 2 cairnctl obj alloc big --size 1 --file "$dir/two"
expect 2 cairnctl obj alloc big --size 1073741825
expect 8 cairnctl obj alloc big --size 1073741824
expect 2 cairnctl obj alloc big --size 0

check() {
    local size
    for size in "${sizes[@]}"; do
        head -c "$size" "$dir/input" >"$dir/part"
        expect 0 cairnctl obj read "big/of-$size" --file "$dir/copy"
        cmp "$dir/part" "$dir/copy" || fail "$size bytes are not what was written"
    done
    expect 0 cairnctl obj read big/largest --file "$dir/copy" --timeout 120
    cmp "$dir/input" "$dir/copy" || fail "64 MiB are not what was written"
}
step "read back"
check
step "a range across pieces, the last byte, and one past it"
expect 0 cairnctl obj read big/largest --off 524280 --len 16 --file "$dir/copy"
cmp <(tail -c +524281 "$dir/input" | head -c 16) "$dir/copy"
expect 0 cairnctl obj read big/largest --off 67108863 --len 1 --file "$dir/copy"
cmp <(tail -c 1 "$dir/input") "$dir/copy"
expect 2 cairnctl obj read big/largest --off 67108863 --len 2
step "a write in the middle changes those bytes only"
expect 0 cairnctl obj write big/largest --off 33554430 --data MIDDLE
printf MIDDLE | dd of="$dir/input" bs=1 seek=33554430 conv=notrunc status=none
expect 0 cairnctl obj read big/largest --file "$dir/copy" --timeout 120
cmp "$dir/input" "$dir/copy" || fail "more or less than the six bytes changed"
step "after all nodes were killed"
for n in 1 2 3; do cluster_kill $n; done
cluster_start
cluster_wait 60
check
expect 0 cairnctl replica check --timeout 60
step "freed: the space is there again"
expect 0 cairnctl obj free big/largest --yes
for i in 1 2 3 4 5; do
    expect 0 cairnctl obj alloc big --size 64M
    expect 0 cairnctl obj free "big/$out" --yes
done
expect 0 cairnctl replica check --timeout 60
