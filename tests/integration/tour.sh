#!/usr/bin/env bash
# A tour of a real three-node cluster as a new user takes it: every verb of cairnctl, its exit codes and its envelope, the
# SDK's examples, refused connections, a node that stops and comes back, and an offline look at its log.
#
#   tour.sh BIN_DIR        BIN_DIR holds the build tree; exit 0 if all held
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$1
# shellcheck source=scripts/cluster.sh
source "$root/scripts/cluster.sh"
dir=$(mktemp -d "${TMPDIR:-/tmp}/cairn-tour.XXXXXX")
finish() {
    local rv=$?
    cluster_stop
    if [ $rv -ne 0 ]; then
        echo "tour: FAILED; logs and data are in $dir" >&2
        tail -n 5 "$dir"/n?.log >&2 || true
    else
        rm -rf "$dir"
    fi
    exit $rv
}
trap finish EXIT
mkdir -p "$dir/bin"
for program in cairnd cairnctl ex1_hello ex2_list ex3_async; do
    path=$(find "$build" -type f -name "$program" -perm -u+x | head -n 1)
    [ -n "$path" ] || { echo "tour: $program is not built" >&2; exit 1; }
    ln -s "$path" "$dir/bin/$program"
done
ctl() { "$dir/bin/cairnctl" "$@"; }
checks=0
# expect CODE COMMAND...: the exit code, and a JSON envelope when -o json is among the words
expect() {
    local code=$1 rv=0
    shift
    "$@" >"$dir/out" 2>"$dir/err" </dev/null || rv=$?
    if [ $rv -ne "$code" ]; then
        echo "tour: expected exit code $code, got $rv: $*" >&2
        cat "$dir/out" "$dir/err" >&2
        exit 1
    fi
    case " $* " in
    *" -o json "*)
        jq -e '.apiVersion == "cairn/v1" and has("kind") and has("data") and has("warnings") and has("error")' \
            "$dir/out" >/dev/null || { echo "tour: no envelope: $*" >&2; cat "$dir/out" >&2; exit 1; }
        ;;
    esac
    checks=$((checks + 1))
}
shows() { # TEXT: the last command printed it, on either stream
    grep -qF -- "$1" "$dir/out" "$dir/err" || { echo "tour: \"$1\" was not shown" >&2; cat "$dir/out" "$dir/err" >&2; exit 1; }
    checks=$((checks + 1))
}

cluster_init "$dir" "$dir/bin" 3

# -- configuration: what is wrong is named, and the daemon doesn't start
expect 0 "$dir/bin/cairnd" --check-config --config "$dir/n1.yaml"
sed 's/^listen: .*/listen: nowhere/' "$dir/n1.yaml" >"$dir/bad.yaml"
expect 2 "$dir/bin/cairnd" --check-config --config "$dir/bad.yaml"
shows "listen must be HOST:PORT"
expect 2 env CAIRND_RAFT_ELECTION_MS=soon "$dir/bin/cairnd" --check-config --config "$dir/n1.yaml"
shows "CAIRND_RAFT_ELECTION_MS"
expect 2 "$dir/bin/cairnd" --check-config --config "$dir/absent.yaml"

# -- nobody answers
expect 7 ctl status --timeout 2
expect 7 ctl status -o json --timeout 2

cluster_start
expect 0 ctl status --wait healthy --timeout 60 -o json
expect 0 ctl status
shows HEALTHY
sleep 1.2 # what HTTP serves is published once a second
expect 0 "$dir/bin/cairnd" --probe "127.0.0.1:${cluster_http[1]}"
curl -sf "http://127.0.0.1:${cluster_http[1]}/metrics" | grep '^cairn_up 1$' >/dev/null
curl -sf "http://127.0.0.1:${cluster_http[1]}/healthz" >/dev/null

# -- verbs
expect 0 ctl heap create tour --shards 2 --size 256M -o json
expect 4 ctl heap create tour
expect 2 ctl heap create BAD_NAME!
expect 0 ctl heap ls
shows tour
expect 0 ctl node ls -o json
expect 0 ctl node storage -o json
expect 0 ctl shard ls tour -o json
expect 3 ctl shard ls nothing
expect 3 ctl root ls nothing
expect 0 ctl obj alloc tour --data "hello, cairn" --type 7
ptr=$(cat "$dir/out")
expect 0 ctl ptr decode "$ptr" -o json
expect 0 ctl root set tour greeting "$ptr"
expect 0 ctl root get tour greeting
shows "$ptr"
expect 3 ctl root get tour nobody -o json
expect 0 ctl obj stat tour/greeting -o json
[ "$(jq .data.size "$dir/out")" = 12 ]
expect 0 ctl obj write tour/greeting --off 7 --data CAIRN
expect 0 ctl obj read tour/greeting
shows "hello, CAIRN"
expect 2 ctl obj read tour/greeting --off 10 --len 9
expect 0 ctl root ls tour -o json
expect 0 ctl obj free "tour/$ptr" --yes
expect 10 ctl obj read "tour/$ptr" -o json
expect 10 ctl obj free "tour/$ptr" --yes
expect 0 ctl root rm tour greeting --dry-run
expect 0 ctl root rm tour greeting
expect 3 ctl root rm tour greeting
expect 2 ctl nonsense
expect 2 ctl obj read
expect 0 ctl heap stats tour -o json
expect 0 ctl version -o json
expect 0 ctl completion bash
bash -n "$dir/out"

# -- sizes: one byte, and the largest object, read back equal
expect 0 ctl obj alloc tour --size 1
expect 2 ctl obj alloc tour --size 0
expect 2 ctl obj alloc tour --size 67108865
head -c 67108864 /dev/urandom >"$dir/large"
expect 0 ctl obj alloc tour --file "$dir/large" --timeout 120
large=$(tail -n 1 "$dir/out")
expect 0 ctl obj read "tour/$large" --file "$dir/back" --timeout 120
cmp "$dir/large" "$dir/back"

# -- the examples of the SDK
for example in ex1_hello ex2_list ex3_async; do
    expect 0 timeout 120 "$dir/bin/$example"
done

# -- refused, each with a line in the node's log; the node goes on
port=${cluster_ports[1]}
logged() { # TEXT: appears in a node's log within 5 s
    for _ in $(seq 1 50); do
        grep -qiE -- "$1" "$dir"/n?.log && { checks=$((checks + 1)); return 0; }
        sleep 0.1
    done
    echo "tour: no node logged anything like \"$1\"" >&2
    tail -n 5 "$dir"/n?.log >&2
    exit 1
}
refused=$(grep -ci "refused" "$dir/n1.log" || true)
printf 'GET / HTTP/1.0\r\n\r\n' | timeout 5 bash -c "cat >/dev/tcp/127.0.0.1/$port" || true
tls=(openssl s_client -connect "127.0.0.1:$port" -CAfile "$CAIRN_CA" -quiet)
timeout 5 "${tls[@]}" </dev/null >/dev/null 2>&1 || true
"$root/scripts/certs" "$dir/other" user admin >/dev/null
expect 6 env CAIRN_CERT="$dir/other/admin.crt" CAIRN_KEY="$dir/other/admin.key" "$dir/bin/cairnctl" status --timeout 5
"$root/scripts/certs" --expired "$dir/certs" user late >/dev/null
expect 6 env CAIRN_CERT="$dir/certs/late.crt" CAIRN_KEY="$dir/certs/late.key" "$dir/bin/cairnctl" status --timeout 5
timeout 5 "${tls[@]}" -tls1_2 -cert "$CAIRN_CERT" -key "$CAIRN_KEY" </dev/null >/dev/null 2>&1 || true
(head -c 4096 /dev/zero | tr '\0' '\377'; sleep 0.5) |
    timeout 5 "${tls[@]}" -cert "$CAIRN_CERT" -key "$CAIRN_KEY" >/dev/null 2>&1 || true
for stranger in certs/late other/admin; do
    timeout 5 "${tls[@]}" -cert "$dir/$stranger.crt" -key "$dir/$stranger.key" </dev/null >/dev/null 2>&1 || true
done
logged "expired"
logged "unknown CA|another CA|issuer|not trusted|verify"
logged "refused|handshake"
[ "$(grep -ci "refused\|handshake\|certificate" "$dir/n1.log")" -gt "$refused" ]
expect 0 ctl obj alloc tour --data "still here"

# -- certificates are loaded again without a restart
kill -HUP "${cluster_pids[1]}"
logged "certificates loaded again"
expect 0 ctl status --wait healthy

# -- one node stops, service goes on; it comes back; all replicas are equal
cluster_term 3
expect 0 ctl obj alloc tour --data "two of three"
expect 5 ctl status
shows DEGRADED
expect 0 ctl --offline "$dir/n3" log dump
shows "ALLOC"
expect 0 ctl --offline "$dir/n3" log dump --shard 1 -o table
cluster_start 3
expect 0 ctl status --wait healthy --timeout 60
expect 0 ctl replica check --timeout 60
expect 0 ctl heap rm tour --yes
expect 3 ctl heap stats tour
echo "tour: $checks checks"
