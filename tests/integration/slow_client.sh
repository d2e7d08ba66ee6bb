#!/usr/bin/env bash
# A client that asks for hundreds of megabytes and never reads them is cut off; others are served meanwhile, and the node's
# memory stays bounded; what many connections held goes back to the system when they have gone.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
export CAIRND_LOG_LEVEL=debug
it_cluster cairn-bench
"$root/scripts/certs" "$dir/certs" user slow >/dev/null
expect 0 cairnctl heap create h --shards 1 --size 32M
cluster_wait 60
expect 0 cairnctl obj alloc h --size 512K
word=$(cairnctl ptr decode "$out" -o json | jq -r .data.word)
small=$(cairnctl obj alloc h --size 16)
uid=$(cairnctl shard ls h -o json | jq -r '.data.replicas[0].uid')
leader=$(cluster_leader "$uid")
read_kind=$(sed -n 's/^MESSAGE(READ, read, \([0-9]*\),.*/\1/p' "$root/rpc/message.def")
rss_kb() { awk '/^VmRSS/ { print $2 }' "/proc/${cluster_pids[leader]}/status"; }

step "a client asks n$leader 400 times for 512 KiB and reads nothing"
{
    hello 0 slow
    for ((i = 1; i <= 400; i++)); do
        header 37 "$read_kind" "$i"
        le 8 "$uid" && le 8 "$word" && le 8 0 && le 4 $((512 << 10)) && le 8 0 && le 1 0
    done
} >"$dir/requests"
before=$(rss_kb)
mkfifo "$dir/never-read"
exec 4<>"$dir/never-read" # open at both ends, so that writing blocks when the pipe is full
{ cat "$dir/requests" && sleep 60; } | openssl s_client -connect "127.0.0.1:${cluster_ports[leader]}" -quiet -no_ign_eof \
    -CAfile "$dir/certs/ca.crt" -cert "$dir/certs/slow.crt" -key "$dir/certs/slow.key" >&4 2>/dev/null &
slow=$!
it_cleanup() { kill $slow 2>/dev/null || true; }

most=0
for ((i = 0; i < 25; i++)); do
    expect 0 cairnctl obj write "h/$small" --data "round $i" --timeout 5
    expect 0 cairnctl obj read "h/$small" --len 5 --file - --timeout 5
    now=$(rss_kb)
    most=$((now > most ? now : most))
done
eventually 20 grep -qE "WARN.*name=slow" "$dir/n$leader.log"
lines=$(grep -E "WARN.*name=slow" "$dir/n$leader.log")
has "$lines" "can't take an answer|too slow|does not read"
step "others were served meanwhile; memory grew from $before to at most $most KiB"
# Unsent bytes of one connection are bounded by 64 MiB; the rest is room for copies on their way and the allocator's slack.
[ $((most - before)) -lt $((192 << 10)) ] || fail "memory grew by $((most - before)) KiB"
cluster_wait 10
expect 0 cairnctl replica check --timeout 30

step "many clients come and go"
expect 0 cairn-bench put --clients 48 --seconds 2 --warmup 0 --keys 4 --pids "${cluster_pids[leader]}" --target "$CAIRN_ENDPOINTS" \
    --heap h --ca "$CAIRN_CA" --cert "$CAIRN_CERT" --key "$CAIRN_KEY"
eventually 20 grep -q "memory given back" "$dir/n1.log" "$dir/n2.log" "$dir/n3.log" # whoever leads by then
