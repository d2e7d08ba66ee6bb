#!/usr/bin/env bash
# Disks that fill up. One of three: service goes on, nothing acknowledged is lost, and with space the node is in service again
# by itself. All three: writes are refused, reads go on, and all is well again with space.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
if [ "$(id -u)" != 0 ]; then
    echo "skipped: mounting small file systems needs root"
    exit 77
fi
it_cleanup() {
    local n
    for n in 1 2 3; do umount "$dir/n$n" 2>/dev/null || umount -l "$dir/n$n" 2>/dev/null || true; done
}
for n in 1 2 3; do
    mkdir -p "$dir/n$n"
    mount -t tmpfs -o size=192m,mode=0700 "cairn-$it_name-$n" "$dir/n$n" 2>/dev/null || {
        echo "skipped: no tmpfs can be mounted here"
        exit 77
    }
done
CLUSTER_CONFIG="storage: {checkpoint_log_bytes: 256K}
wal: {segment_bytes: 4M, disk_bytes_max: 64M}"
it_cluster counters
expect 0 cairnctl heap create h --shards 2 --size 32M
cluster_wait 60

fill() { # n: not a byte left
    dd if=/dev/zero of="$dir/n$1/ballast" bs=64k status=none 2>/dev/null || true
    dd if=/dev/zero of="$dir/n$1/ballast2" bs=512 status=none 2>/dev/null || true
}
drain() { rm -f "$dir/n$1/ballast" "$dir/n$1/ballast2"; }

step "one node's disk is full while clients write"
counters h 20 4 >"$dir/load.json" 2>"$dir/load.log" &
load=$!
sleep 3
fill 3
sleep 9
kill -0 "${cluster_pids[3]}" || fail "n3 ended on a full disk: $(tail -n 3 "$dir/n3.log")"
drain 3
wait $load || { cat "$dir/load.log" "$dir/load.json" >&2; fail "the load found losses or was refused for good"; }
cat "$dir/load.json"
jq -e '.ok > 100 and .failed == 0' "$dir/load.json" >/dev/null || fail "too little was served: $(cat "$dir/load.json")"
cluster_wait 60
expect 0 cairnctl replica check --timeout 60

step "all three disks are full"
p=$(cairnctl obj alloc h --size 512K)
expect 0 cairnctl obj write "h/$p" --data "before"
head -c $((500 << 10)) /dev/urandom >"$dir/block"
for n in 1 2 3; do fill $n; done
refused=0
marked=-1
for ((i = 0; i < 400; i++)); do
    rv=0
    # The marker is written after the block of noise that uses up what is left of the logs.
    cairnctl obj write "h/$p" --off 1K --file "$dir/block" --timeout 4 >/dev/null 2>"$dir/refusal" || rv=$?
    if [ $rv -eq 0 ]; then
        cairnctl obj write "h/$p" --data "mark $i" --timeout 4 >/dev/null 2>"$dir/refusal" || rv=$?
    fi
    [ $rv -ne 0 ] || marked=$i
    if [ $rv -ne 0 ]; then
        refused=1
        break
    fi
done
[ $refused = 1 ] || fail "400 writes of 500 KiB went to full disks"
step "refused after $i rounds with exit code $rv: $(cat "$dir/refusal")"
[ "$rv" -eq 8 ] || [ "$rv" -eq 7 ] || fail "a write to full disks exited with $rv"
has "$(cat "$dir/refusal")" 'CAIRN_E_(DISKFULL|BUSY|TIMEOUT|INDOUBT)'
expect 0 cairnctl obj read "h/$p" --len 16 --file - --timeout 10
# The newest acknowledged one, or the one after it, whose outcome was unknown.
if [ $marked -ge 0 ]; then
    has "$out" "^mark ($marked|$((marked + 1)))"
else
    has "$out" '^(before|mark 0)'
fi
step "reads go on: mark $marked was the last acknowledged"
expect 5 cairnctl status -o json
jq -e '[.data.nodes[].answer.disk_full] | any' >/dev/null <<<"$out" || fail "no node says that its disk is full: $out"
for n in 1 2 3; do
    kill -0 "${cluster_pids[n]}" || fail "n$n ended on a full disk: $(tail -n 3 "$dir/n$n.log")"
    expect 0 curl -sf "http://127.0.0.1:${cluster_http[n]}/healthz"
done

step "space is back"
for n in 1 2 3; do drain $n; done
eventually 60 cairnctl obj write "h/$p" --data "recovered" --timeout 5
cluster_wait 60
expect 0 cairnctl obj read "h/$p" --len 9 --file -
[ "$out" = recovered ] || fail "read $out"
expect 0 cairnctl replica check --timeout 60
expect 0 cairnctl heap create again --shards 1 --size 32M
counters again 3 4 >"$dir/load.json" 2>"$dir/load.log" || fail "$(cat "$dir/load.log")"

step "a restart on a full disk: refuses with words or starts, and loses nothing"
cluster_term 3
fill 3
if cluster_start 3 2>"$dir/start.txt"; then
    cat "$dir/start.txt"
    kill -0 "${cluster_pids[3]}" && cluster_kill 3
else
    unset "cluster_pids[3]"
    has "$(tail -n 3 "$dir/n3.log")" 'DISKFULL|no space'
fi
drain 3
cluster_start 3
cluster_wait 60
expect 0 cairnctl obj read "h/$p" --len 9 --file -
[ "$out" = recovered ] || fail "read $out"
expect 0 cairnctl replica check --timeout 60
