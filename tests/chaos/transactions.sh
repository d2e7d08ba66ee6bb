#!/usr/bin/env bash
# Transactions of real processes on real nodes under real faults: nodes are killed, stopped for longer than an election
# takes (one, and two of three), ended and all killed at once, and clients kill themselves in the middle of commits. What
# every transaction saw must be strictly serializable (tests/history), none may be in doubt 5 s after the last fault, and
# all replicas must be equal. Then the same histories are falsified, and the checker must notice.
#
#   transactions.sh BUILD_DIR [SECONDS]      default: CAIRN_CHAOS_SECONDS, or 24; CAIRN_SEED=N chooses the same faults again
set -euo pipefail
build=$1
seconds=${2:-${CAIRN_CHAOS_SECONDS:-24}}
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/../integration/lib.sh"
seed=${CAIRN_SEED:-$$}
RANDOM=$seed
CLUSTER_CONFIG="raft: {election_ms: 500, heartbeat_ms: 50}
storage: {checkpoint_log_bytes: 256K}"
it_programs lists judge
it_cluster
expect 0 cairnctl heap create lists --shards 4 --size 256M --retention 10s
cluster_wait 60
mkdir "$dir/histories"

step "load for $seconds s (CAIRN_SEED=$seed)"
lists lists "$dir/histories" "$seconds" 3 4 >"$dir/lists.log" 2>&1 &
load=$!
until=$(($(date +%s) + seconds - 3))
declare -A faults=()
while [ "$(date +%s)" -lt $until ]; do
    sleep "0.$((RANDOM % 9 + 1))"
    victim=$((RANDOM % 3 + 1))
    other=$((victim % 3 + 1))
    case $((RANDOM % 10)) in
    0 | 1 | 2)
        fault="kill"
        cluster_kill $victim
        sleep "0.$((RANDOM % 9 + 1))"
        cluster_start $victim
        ;;
    3 | 4 | 5)
        fault="stop"
        kill -STOP "${cluster_pids[victim]}"
        sleep "$((RANDOM % 2 + 1)).$((RANDOM % 10))"
        kill -CONT "${cluster_pids[victim]}"
        ;;
    6)
        fault="stop two"
        kill -STOP "${cluster_pids[victim]}" "${cluster_pids[other]}"
        sleep "1.$((RANDOM % 10))"
        kill -CONT "${cluster_pids[victim]}"
        sleep "0.$((RANDOM % 10))"
        kill -CONT "${cluster_pids[other]}"
        ;;
    7)
        fault="kill while another is stopped"
        kill -STOP "${cluster_pids[other]}"
        cluster_kill $victim
        sleep "0.$((RANDOM % 9 + 1))"
        cluster_start $victim
        kill -CONT "${cluster_pids[other]}"
        ;;
    8)
        fault="end"
        cluster_term $victim
        cluster_start $victim
        ;;
    9)
        fault="kill all"
        kill -KILL "${cluster_pids[@]}"
        for n in 1 2 3; do cluster_kill $n; done
        cluster_start
        ;;
    esac
    faults[$fault]=$((${faults[$fault]:-0} + 1))
done
for fault in "${!faults[@]}"; do
    echo "    ${faults[$fault]} x $fault"
done
cluster_wait 30
rv=0
wait $load || rv=$?
cat "$dir/lists.log"
[ $rv -eq 0 ] || fail "the load failed"

step "no transaction is in doubt 5 s later"
none_in_doubt() {
    cairnctl tx ls --in-doubt -o json | jq -e '.data.transactions | length == 0' >/dev/null
}
eventually 5 none_in_doubt

step "the histories"
rv=0
judge "$dir/histories" >"$dir/verdict.json" || rv=$?
cat "$dir/verdict.json"
[ $rv -eq 0 ] || fail "not strictly serializable, or too little to say so"
jq -e '.serializable > 100 and .died > 0' "$dir/verdict.json" >/dev/null || fail "too little happened"

step "replicas are equal"
expect 0 cairnctl replica check --timeout 60

step "falsified histories are found out"
for damage in lost aborted swapped stale torn; do
    expect 1 judge "$dir/histories" $damage
    echo "    $damage: $(head -n 1 "$dir/err" | cut -c 1-120)"
done
