#!/usr/bin/env bash
# The HTTP port of a live node (health, metrics) gets what no probe would send. It answers with an error or closes, goes on
# answering, and neither the shards nor the clients of the node notice.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster
port=${cluster_http[1]}
cairnctl heap create h --shards 1 --size 32M >/dev/null
cluster_wait 60
p=$(cairnctl obj alloc h --size 16)

healthy() { curl -sf --max-time 3 "http://127.0.0.1:$port/healthz" >/dev/null; }
serves() { # count
    CAIRN_ENDPOINTS=127.0.0.1:${cluster_ports[1]} expect 0 cairnctl obj write "h/$p" --data "after $1" --timeout 5
    kill -0 "${cluster_pids[1]}" || fail "the node is gone: $(tail -n 3 "$dir/n1.log")"
}

trap "" PIPE # the node closes what it doesn't want
count=0
# Sends what is in $dir/request: the first line of the answer must fit the pattern, or the connection ends without one.
# Then the next probe is answered, and the node serves.
send() { # what pattern
    local line
    step "$1"
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    cat "$dir/request" >&3 2>/dev/null || true # it may close before it has read all
    line=$(timeout 12 head -n 1 <&3 2>/dev/null | tr -d '\0\r') || true
    exec 3>&-
    [ -z "$line" ] || has "$line" "$2"
    healthy || fail "no answer to a probe after $1"
    count=$((count + 1))
    serves $count
}
refused='^HTTP/1\.[01] 4[0-9][0-9]|^HTTP/1\.[01] 50[15]'
long() { head -c "$1" /dev/zero | tr '\0' 'x'; }

for method in POST PUT DELETE OPTIONS TRACE PATCH BREW get "$(long 2000)"; do
    printf '%s /healthz HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n' "$method" >"$dir/request"
    send "method ${method:0:12}" '^HTTP/1\.[01] 4'
done
printf 'CONNECT n1:1 HTTP/1.1\r\nHost: n1\r\n\r\n' >"$dir/request"
send "CONNECT" "$refused"
for path in / /metrics/ /healthz/../readyz /%00 /%zz '//healthz' "/$(long 8000)" '*'; do
    printf 'GET %s HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n' "$path" >"$dir/request"
    send "path ${path:0:20}" "$refused"
done
printf 'GET /%s HTTP/1.1\r\nHost: n1\r\n\r\n' "$(long 200000)" >"$dir/request"
send "a path of 200 kB" "$refused"
{ printf 'GET /healthz HTTP/1.1\r\nHost: n1\r\nX: ' && long 1000000 && printf '\r\n\r\n'; } >"$dir/request"
send "a header of 1 MB" "$refused"
{
    printf 'GET /healthz HTTP/1.1\r\nHost: n1\r\n'
    for ((i = 0; i < 20000; i++)); do printf 'X%d: y\r\n' $i; done
    printf '\r\n'
} >"$dir/request"
send "20 000 headers" "$refused"
printf 'POST /metrics HTTP/1.1\r\nHost: n1\r\nContent-Length: 99999999999999999999\r\n\r\nx' >"$dir/request"
send "an endless body" "$refused"
printf 'POST /metrics HTTP/1.1\r\nHost: n1\r\nContent-Length: -1\r\n\r\nx' >"$dir/request"
send "a body of -1 bytes" "$refused"
printf 'POST / HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\xff\xff\r\n0\r\n\r\n' >"$dir/request"
send "chunks that are none" "$refused"
{ printf 'POST / HTTP/1.1\r\nHost: n1\r\nContent-Length: 4000000\r\n\r\n' && head -c 4000000 /dev/zero; } >"$dir/request"
send "a body of 4 MB" "$refused"
printf 'GET /healthz\r\n\r\n' >"$dir/request"
send "HTTP/0.9" '.'
printf 'GET /healthz HTTP/9.9\r\n\r\n' >"$dir/request"
send "HTTP/9.9" "$refused|200"
printf '\r\n\r\n\r\n\r\n' >"$dir/request"
send "nothing but ends of lines" "$refused"
printf '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' >"$dir/request"
send "the beginning of TLS" "$refused"
for ((i = 0; i < 5; i++)); do
    head -c 20000 /dev/urandom >"$dir/request"
    send "any bytes" "$refused"
done
head -c 2000 /dev/zero >"$dir/request"
send "zeros" "$refused"

flood() { # count port bytes: connections that stay, in fds
    local i fd
    fds=()
    for ((i = 0; i < $1; i++)); do
        { exec {fd}<>"/dev/tcp/127.0.0.1/$2"; } 2>/dev/null || break
        # shellcheck disable=SC2059
        { printf "$3" >&"$fd"; } 2>/dev/null || true
        fds+=("$fd")
    done
}
drop() {
    local fd
    for fd in "${fds[@]}"; do exec {fd}>&-; done
}

step "half requests that are kept open: probes are answered beside them"
flood 300 "$port" 'GET /healthz HTTP/1.1\r\nHo'
healthy || fail "no answer to a probe beside 300 half requests"
serves half
drop

step "more connections than there may be: the oldest end, and probes are answered beside them"
flood 1200 "$port" ''
healthy || fail "no answer to a probe beside 1200 silent connections"
serves silent
drop

metric() { curl -sf --max-time 3 "http://127.0.0.1:$port/metrics" | sed -n "s/^$1 //p"; }
crowded() { [ "$(metric cairn_handshakes_ended_total)" -ge 744 ]; }
waiting() { [ "$(metric cairn_handshakes)" -eq "$1" ]; }

step "connections to the node itself that begin TLS and go no further: 256 stay, and the metrics say so"
[ "$(metric cairn_handshakes_ended_total)" -eq 0 ] || fail "connections were ended where there was no crowd"
flood 1000 "${cluster_ports[1]}" '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'
serves handshakes
eventually 5 crowded || fail "$(metric cairn_handshakes_ended_total) handshakes ended"
drop
eventually 10 waiting 0 || fail "$(metric cairn_handshakes) handshakes are under way without a peer"

serves last
cluster_wait 20
curl -sf "http://127.0.0.1:$port/metrics" | grep -q '^cairn_up 1$' || fail "no metrics"
