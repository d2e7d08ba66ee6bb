#!/usr/bin/env bash
# What deploy/ ships: builds the images, starts the cluster of deploy/compose.yaml, runs an example in the toolbox, kills a
# container under load and starts it again; nothing acknowledged is lost and all replicas are equal.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=scripts/docker.sh
source "$root/scripts/docker.sh"
skip() {
    echo "skipped: $*"
    exit 77
}
docker_up || skip "no container engine runs here (docker.io, as root)"
project=cairn-test-$$
compose=(docker-compose)
if ! command -v docker-compose >/dev/null; then
    compose=(docker compose)
    docker compose version >/dev/null 2>&1 || skip "neither docker-compose nor docker compose is installed"
fi
compose+=(-p "$project" -f "$root/deploy/compose.yaml")
finish() {
    local rv=$?
    if [ $rv -ne 0 ]; then
        "${compose[@]}" ps >&2 || true
        "${compose[@]}" logs --tail 15 >&2 || true
    fi
    "${compose[@]}" down -v --remove-orphans >/dev/null 2>&1 || echo "compose: containers of $project may be left" >&2
    docker_down
    exit $rv
}
trap finish EXIT
trap 'exit 130' INT TERM
step() { printf '== %s\n' "$*"; }
fail() {
    echo "compose: FAILED: $*" >&2
    exit 1
}
toolbox() { "${compose[@]}" exec -T toolbox "$@"; }
ctl() { toolbox cairnctl "$@"; }
container() { "${compose[@]}" ps -q "$1"; }
healthy() { # service: as the image's own health check says
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$(container "$1")")" = healthy ]
}
wait_healthy() {
    local n i
    for n in n1 n2 n3; do
        for ((i = 0; i < 120; i++)); do
            healthy $n && break
            sleep 1
        done
        healthy $n || fail "$n is not healthy: $(docker inspect -f '{{json .State.Health}}' "$(container $n)")"
    done
}

step "images"
"$root/scripts/image" >"${TMPDIR:-/tmp}/$project.log" 2>&1 || {
    tail -n 40 "${TMPDIR:-/tmp}/$project.log" >&2
    fail "the images don't build"
}
tail -n 2 "${TMPDIR:-/tmp}/$project.log"
rm -f "${TMPDIR:-/tmp}/$project.log"

step "what the image promises: nobody's rights, nothing to write but the volume, a health check"
[ "$(docker image inspect -f '{{.Config.User}}' cairn:latest)" = 65532:65532 ] || fail "the image runs as root"
docker image inspect -f '{{json .Config.Healthcheck.Test}}' cairn:latest | grep -q -- --probe || fail "no health check"
bytes=$(docker image inspect -f '{{.Size}}' cairn:latest)
[ "$bytes" -lt $((64 << 20)) ] || fail "the image has $bytes bytes"
docker run --rm --network none --read-only cairn:latest --version
rv=0
docker run --rm --network none --read-only cairn:latest --check-config >/dev/null 2>&1 || rv=$?
[ $rv -eq 2 ] || fail "--check-config without a configuration exited with $rv"

step "three nodes, no configuration step"
"${compose[@]}" up -d
wait_healthy
ctl status --wait healthy --timeout 60
ctl heap create load --shards 3 --size 64M

step "the examples, compiled in the toolbox with pkg-config"
# shellcheck disable=SC2016 # expanded in the container
toolbox sh -ceu 'for e in ex1_hello ex2_list ex3_async; do
    cc examples/$e.c -o $e $(pkg-config --cflags --libs cairn)
    ./$e
done
cc -O1 /src/tests/chaos/counters.c -o counters $(pkg-config --cflags --libs cairn) -lpthread'

step "n2 is killed under load and started again"
toolbox ./counters load 20 4 >/dev/null 2>&1 &
counters=$!
sleep 4
"${compose[@]}" kill -s KILL n2
sleep 4
state=$(docker inspect -f '{{.State.Running}}' "$(docker ps -aq --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=n2)")
[ "$state" = false ] || fail "n2 still runs after its kill"
rv=0
ctl status || rv=$?
[ $rv -eq 5 ] || fail "status exited with $rv although a node is gone"
toolbox ./ex2_list | tail -n 1
"${compose[@]}" start n2
wait $counters || fail "the load lost something or was refused for good"
wait_healthy
ctl status --wait healthy --timeout 60
toolbox ./ex2_list | tail -n 1
ctl replica check --timeout 60

step "stopped and started as a whole: certificates, identities and data are in the volumes"
"${compose[@]}" stop
for n in n1 n2 n3; do
    code=$(docker inspect -f '{{.State.ExitCode}}' "$(docker ps -aq --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.service=$n)")
    [ "$code" = 0 ] || fail "$n exited with $code when it was stopped"
done
"${compose[@]}" start
wait_healthy
ctl status --wait healthy --timeout 60
count=$(toolbox ./ex2_list | tail -n 1)
[ "$count" = "12 nodes" ] || fail "the list has $count instead of 12"
ctl replica check --timeout 60
step "all held"
