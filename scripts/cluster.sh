# shellcheck shell=bash
# Functions for scripts that run a real cluster of cairnd processes on loopback: source it.
#
#   cluster_init DIR BIN_DIR [NODES]   certificates and configurations below DIR; ports that are free now
#   cluster_start [N...]               starts nodes (default: all) and returns when they listen
#   cluster_kill N                     SIGKILL and wait until it is gone
#   cluster_term N                     SIGTERM and wait (fails if it doesn't stop within 20 s)
#   cluster_wait [SECONDS]             until cairnctl says HEALTHY
#   cluster_leader UID                 number of the node that leads a shard
#   cluster_stop                       SIGKILL to all that run; SIGTERM first with CLUSTER_STOP=term (counters of ./dev coverage)
#
# Exports CAIRN_ENDPOINTS, CAIRN_CA, CAIRN_CERT and CAIRN_KEY for the SDK and cairnctl. Extra configuration lines of every
# node: CLUSTER_CONFIG (YAML text). A wrapper for node N (such as "prlimit ..."): CLUSTER_WRAP_N.

cluster_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# A port that nobody listens on now, different from those given before by this shell.
# Below those that Linux gives to outgoing connections, which would take one between its choice and its use.
cluster_port_next=$((20000 + RANDOM % 12000))
cluster_free_port() {
    while (exec 3<>"/dev/tcp/127.0.0.1/$cluster_port_next") 2>/dev/null; do
        cluster_port_next=$((cluster_port_next + 1))
    done
    cluster_port=$cluster_port_next
    cluster_port_next=$((cluster_port_next + 1))
}

cluster_init() { # dir bin_dir [nodes]
    cluster_dir=$1
    cluster_bin=$2
    cluster_nodes=${3:-3}
    mkdir -p "$cluster_dir/certs"
    local n list="" endpoints="" http
    for n in $(seq 1 "$cluster_nodes"); do
        cluster_free_port
        cluster_ports[n]=$cluster_port
        list+="  - {name: n$n, number: $n, address: \"127.0.0.1:$cluster_port\"}"$'\n'
        endpoints+="${endpoints:+,}127.0.0.1:$cluster_port"
        "$cluster_root/scripts/certs" "$cluster_dir/certs" node "n$n" localhost 127.0.0.1 >/dev/null
    done
    "$cluster_root/scripts/certs" "$cluster_dir/certs" user admin >/dev/null
    for n in $(seq 1 "$cluster_nodes"); do
        cluster_free_port
        http=$cluster_port
        cluster_http[n]=$http
        cat >"$cluster_dir/n$n.yaml" <<YAML
cluster: ${CLUSTER_NAME:-local}
name: n$n
data_dir: $cluster_dir/n$n
listen: 127.0.0.1:${cluster_ports[n]}
http: 127.0.0.1:$http
tls: {ca: $cluster_dir/certs/ca.crt, cert: $cluster_dir/certs/n$n.crt, key: $cluster_dir/certs/n$n.key}
nodes:
$list${CLUSTER_CONFIG:-}
YAML
    done
    export CAIRN_ENDPOINTS="$endpoints" CAIRN_CA="$cluster_dir/certs/ca.crt"
    export CAIRN_CERT="$cluster_dir/certs/admin.crt" CAIRN_KEY="$cluster_dir/certs/admin.key"
}
# shellcheck disable=SC2034 # cluster_http is for those who source this
declare -ga cluster_ports=() cluster_http=() cluster_pids=()

cluster_start() { # [n...]
    local n i wrap which=("$@")
    if [ ${#which[@]} -eq 0 ]; then
        mapfile -t which < <(seq 1 "$cluster_nodes")
    fi
    for n in "${which[@]}"; do
        wrap=CLUSTER_WRAP_$n
        # shellcheck disable=SC2086 # the wrapper is a command and its words
        ${!wrap:-} "$cluster_bin/cairnd" --config "$cluster_dir/n$n.yaml" >>"$cluster_dir/n$n.log" 2>&1 &
        cluster_pids[n]=$!
    done
    for n in "${which[@]}"; do
        for i in $(seq 1 400); do
            (exec 3<>"/dev/tcp/127.0.0.1/${cluster_ports[n]}") 2>/dev/null && break
            if ! kill -0 "${cluster_pids[n]}" 2>/dev/null; then
                echo "node n$n ended at its start:" >&2
                tail -n 5 "$cluster_dir/n$n.log" >&2
                return 1
            fi
            if [ "$i" = 400 ]; then
                echo "node n$n does not listen" >&2
                return 1
            fi
            sleep 0.05
        done
    done
}

cluster_kill() { # n
    kill -KILL "${cluster_pids[$1]}" 2>/dev/null || true
    wait "${cluster_pids[$1]}" 2>/dev/null || true
    unset "cluster_pids[$1]"
}

cluster_term() { # n
    local i
    kill -TERM "${cluster_pids[$1]}"
    for i in $(seq 1 200); do
        kill -0 "${cluster_pids[$1]}" 2>/dev/null || break
        [ "$i" = 200 ] && return 1
        sleep 0.1
    done
    local rv=0
    wait "${cluster_pids[$1]}" || rv=$?
    unset "cluster_pids[$1]"
    return $rv
}

cluster_wait() { # [seconds]
    "$cluster_bin/cairnctl" status --wait healthy --timeout "${1:-60}" >"$cluster_dir/status.txt" 2>&1 || {
        cat "$cluster_dir/status.txt" >&2
        return 1
    }
}

cluster_leader() { # uid
    "$cluster_bin/cairnctl" shard ls -o json 2>/dev/null |
        jq -r --arg uid "$1" '[.data.replicas[] | select(.uid == $uid and .state == "leader") | .node][0] // "" | ltrimstr("n")'
}

cluster_stop() {
    local n i
    if [ "${CLUSTER_STOP:-}" = term ]; then
        kill -TERM "${cluster_pids[@]}" 2>/dev/null || true
        for i in $(seq 1 50); do
            kill -0 "${cluster_pids[@]}" 2>/dev/null || break
            sleep 0.1
        done
    fi
    for n in "${!cluster_pids[@]}"; do
        cluster_kill "$n"
    done
}
