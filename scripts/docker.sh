# shellcheck shell=bash
# Functions for scripts that need a container engine: source it.
#
#   docker_up          a running engine: the one that answers, or one started here as root; 1 if none can run
#   docker_base NAME   the base image of the Dockerfile under this name: there already, pulled, or made by debootstrap from
#                      the Debian mirror that this machine uses
#   docker_down        stops the engine that docker_up started (and no other)

docker_pid=""
docker_up() {
    command -v docker >/dev/null || return 1
    docker info >/dev/null 2>&1 && return 0
    if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
        return 1
    fi
    docker_log=$(mktemp)
    dockerd >"$docker_log" 2>&1 &
    docker_pid=$!
    local tries=60
    while [ $((tries--)) -gt 0 ]; do
        docker info >/dev/null 2>&1 && return 0
        kill -0 "$docker_pid" 2>/dev/null || break
        sleep 0.5
    done
    echo "no container engine can run here; dockerd said: $(tail -n 1 "$docker_log")" >&2
    docker_down
    return 1
}

docker_down() {
    if [ -n "$docker_pid" ]; then
        kill "$docker_pid" 2>/dev/null || true
        wait "$docker_pid" 2>/dev/null || true
        docker_pid=""
    fi
}

docker_base() { # name
    docker image inspect "$1" >/dev/null 2>&1 && return 0
    timeout 60 docker pull -q "$1" >/dev/null 2>&1 && return 0
    if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
        echo "$1 can't be pulled, and debootstrap (as root) is needed to make it" >&2
        return 1
    fi
    local dir site sources
    # shellcheck disable=SC2016 # apt's own variables
    site=$(apt-get indextargets --format '$(SITE) $(CODENAME)' | awk '$2 == "bookworm" { print $1; exit }')
    dir=$(mktemp -d)
    echo "making $1 with debootstrap" >&2
    debootstrap --variant=minbase bookworm "$dir" "$site" >"$dir.log" 2>&1 || {
        tail -n 5 "$dir.log" >&2
        return 1
    }
    # The same mirror and the same way out as this machine has.
    for sources in /etc/apt/apt.conf.d/*proxy*; do
        [ -f "$sources" ] && cp "$sources" "$dir/etc/apt/apt.conf.d/"
    done
    tar -C "$dir" -c . | docker import - "$1" >/dev/null
    rm -rf "$dir" "$dir.log"
}
