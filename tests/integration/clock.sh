#!/usr/bin/env bash
# A node whose wall clock is off hands its shards to others, leads none and is a finding of `status`, until the clock is right.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
shim=$(find "$build" -name 'wall_shim.so' -type f | head -n 1)
[ -n "$shim" ] || fail "wall_shim.so is not built in $build"
export ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0
echo 0 >"$dir/wall"
export CLUSTER_WRAP_1="env LD_PRELOAD=$shim CAIRN_WALL_FILE=$dir/wall"
it_cluster
expect 0 cairnctl heap create h --shards 6 --size 16M
cluster_wait 60

led_by_1() { cairnctl shard ls -o json | jq '[.data.replicas[] | select(.node == "n1" and .state == "leader")] | length'; }
leads_none() { [ "$(led_by_1)" = 0 ]; }
leads_some() { [ "$(led_by_1)" -gt 0 ]; }
finding() { cairnctl status -o json | jq -r '.data.nodes[] | select(.node == "n1") | .finding'; }
found() { grep -qE -- "$1" <<<"$(finding)"; }
eventually 40 leads_some

step "a clock that is 0.4 s off is no finding"
echo 400 >"$dir/wall"
sleep 3
found '^$' || fail "a finding: $(finding)"

step "a clock that is 30 s off is one"
p=$(cairnctl obj alloc h --size 64)
echo 30000 >"$dir/wall"
eventually 10 found 'clock off by \+(29|30)[0-9]{3} ms'
eventually 20 leads_none
expect 5 cairnctl status
has "$out" 'DEGRADED'
has "$out" 'clock off'
has "$(cat "$dir/n1.log")" "this node's clock is off"
metric() { curl -sf "http://127.0.0.1:${cluster_http[1]}/metrics" | grep -q '^cairn_clock_off 1'; }
eventually 5 metric
for _ in 1 2 3 4 5; do
    expect 0 cairnctl obj write "h/$p" --data "on time"
    sleep 1
    leads_none || fail "n1 leads $(led_by_1) shards"
done
for n in 2 3; do
    ! grep -q "clock is off" "$dir/n$n.log" || fail "n$n thinks that its clock is off"
done

step "set right, it is healthy and leads again"
echo 100 >"$dir/wall"
cluster_wait 30
eventually 60 leads_some
has "$(cat "$dir/n1.log")" "agrees with the others"
expect 0 cairnctl replica check --timeout 60
