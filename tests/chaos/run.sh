#!/usr/bin/env bash
# Real cairnd processes under real faults: kill (SIGKILL of random nodes, 20 rounds), pause (SIGSTOP/SIGCONT of a leader),
# all (all nodes killed at once), rolling (SIGTERM one after another: no client error), wipe (a node loses its disk and
# rejoins). Every acknowledged operation is checked; every scenario ends with equal replicas.
#
#   run.sh BIN_DIR SCENARIO [SECONDS]      BIN_DIR holds the build tree; exit 0 if all held
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$1
scenario=$2
# shellcheck source=scripts/cluster.sh
source "$root/scripts/cluster.sh"
dir=$(mktemp -d "${TMPDIR:-/tmp}/cairn-chaos.XXXXXX")
RANDOM=${CAIRN_SEED:-$$}
echo "chaos: $scenario, replay the choice of nodes with CAIRN_SEED=${CAIRN_SEED:-$$}"
finish() {
    local rv=$?
    cluster_stop
    if [ $rv -ne 0 ]; then
        echo "chaos: $scenario FAILED; logs and data are in $dir" >&2
        tail -n 5 "$dir"/n?.log >&2 || true
    else
        rm -rf "$dir"
    fi
    exit $rv
}
trap finish EXIT
mkdir -p "$dir/bin"
for program in cairnd cairnctl counters; do
    ln -s "$(find "$build" -type f -name "$program" -perm -u+x | head -n 1)" "$dir/bin/$program"
done
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:log_path=$dir/asan

CLUSTER_CONFIG="raft: {election_ms: 500, heartbeat_ms: 50}
storage: {checkpoint_log_bytes: 256K}"
cluster_init "$dir" "$dir/bin" 3
cluster_start
cluster_wait 60
"$dir/bin/cairnctl" heap create chaos --shards 3 --size 256M
cluster_wait 60
faults=0

load() { # seconds
    "$dir/bin/counters" chaos "$1" 8 >"$dir/load.json" 2>"$dir/load.log" &
    load_pid=$!
}
load_end() {
    local rv=0
    wait "$load_pid" || rv=$?
    cat "$dir/load.log" >&2
    echo "chaos: $scenario: $faults faults, $(cat "$dir/load.json")"
    return $rv
}

case $scenario in
kill)
    rounds=${3:-20}
    load $((rounds * 2))
    for _ in $(seq 1 "$rounds"); do
        victim=$((RANDOM % 3 + 1))
        cluster_kill $victim
        faults=$((faults + 1))
        sleep "0.$((RANDOM % 8 + 1))"
        cluster_start $victim
        sleep "0.$((RANDOM % 8 + 1))"
        cluster_wait 30
    done
    load_end
    ;;
pause)
    load "${3:-20}"
    for _ in 1 2 3; do
        sleep 1
        victim=$(cluster_leader 16)
        [ -n "$victim" ] || continue
        kill -STOP "${cluster_pids[victim]}"
        faults=$((faults + 1))
        sleep 3
        kill -CONT "${cluster_pids[victim]}"
        cluster_wait 30
    done
    load_end
    ;;
all)
    load "${3:-20}"
    for _ in 1 2 3; do
        sleep 1.5
        for n in 1 2 3; do kill -KILL "${cluster_pids[n]}"; done
        for n in 1 2 3; do cluster_kill $n; done
        faults=$((faults + 1))
        cluster_start
        cluster_wait 30
    done
    load_end
    ;;
rolling)
    load "${3:-20}"
    for n in 1 2 3; do
        sleep 1
        cluster_term $n
        faults=$((faults + 1))
        cluster_start $n
        cluster_wait 30
    done
    load_end
    jq -e '.failed == 0 and .unknown == 0' "$dir/load.json" >/dev/null
    ;;
wipe)
    load "${3:-20}"
    sleep 2
    victim=$((RANDOM % 3 + 1))
    cluster_kill $victim
    rm -rf "$dir/n$victim"
    faults=$((faults + 1))
    cluster_start $victim
    cluster_wait 60
    load_end
    ;;
*)
    echo "unknown scenario $scenario" >&2
    exit 2
    ;;
esac
[ $faults -gt 0 ]
cluster_wait 60
"$dir/bin/cairnctl" replica check --timeout 60
if compgen -G "$dir/asan*" >/dev/null; then
    head -n 40 "$dir"/asan* >&2
    exit 1
fi
