#!/usr/bin/env bash
# The shipped images and compose file, really built and run: the cluster from deploy/, an SDK example compiled and run in the
# toolbox, one container killed and started again, replicas equal. Skips (77) only where no container engine can run.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=scripts/docker.sh
source "$root/scripts/docker.sh"
if ! docker_up; then
    echo "compose: skipped: no container engine can run here"
    exit 77
fi
project=cairn-test-$$
compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose -p "$project" -f "$root/deploy/compose.yaml" "$@"
    else
        docker-compose -p "$project" -f "$root/deploy/compose.yaml" "$@"
    fi
}
finish() {
    local rv=$?
    if [ $rv -ne 0 ]; then
        compose ps >&2 || true
        compose logs --tail 20 >&2 || true
    fi
    compose down -v -t 5 >/dev/null 2>&1 || true
    docker_down
    exit $rv
}
trap finish EXIT

echo "== images"
"$root/scripts/image"
echo "== three nodes, no configuration step"
compose up -d
tb() { compose exec -T toolbox "$@"; }
tb cairnctl status --wait healthy --timeout 90
tb cairnctl heap create demo --shards 2 --size 64M

echo "== a node is what it should be: non-root, read-only root, no capabilities"
n1=$(compose ps -q n1)
[ "$(docker inspect -f '{{.Config.User}}' "$n1")" = 65532:65532 ]
[ "$(docker inspect -f '{{.HostConfig.ReadonlyRootfs}}' "$n1")" = true ]
for _ in $(seq 1 60); do
    health=$(docker inspect -f '{{.State.Health.Status}}' "$n1")
    [ "$health" = healthy ] && break
    sleep 0.5
done
[ "$health" = healthy ]

echo "== the SDK in the toolbox"
# shellcheck disable=SC2016 # expanded in the toolbox
tb sh -c 'cc examples/ex1_hello.c -o hello $(pkg-config --cflags --libs cairn) && ./hello'
ptr=$(tb cairnctl obj alloc demo --data "outlasts the container" | tr -d '\r')
tb cairnctl root set demo keep "$ptr"

echo "== one container is killed; service goes on; it starts again and catches up"
docker kill "$n1" >/dev/null
tb cairnctl obj write demo/keep --data "OUTLASTS"
compose start n1 >/dev/null
tb cairnctl status --wait healthy --timeout 90
tb cairnctl obj read demo/keep | grep OUTLASTS
tb cairnctl replica check --timeout 60

echo "== all stop and start: the volumes hold everything"
compose stop -t 15 n1 n2 n3 >/dev/null
compose start n1 n2 n3 >/dev/null
tb cairnctl status --wait healthy --timeout 90
tb cairnctl obj read demo/keep | grep OUTLASTS
echo "compose: all held"
