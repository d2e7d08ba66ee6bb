#!/usr/bin/env bash
# Who is not entitled, or doesn't speak the protocol, is refused by a live node with one clear line in its log; the node goes on.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster
port=${cluster_ports[1]}
log=$dir/n1.log
"$root/scripts/certs" "$dir/certs" user app >/dev/null
"$root/scripts/certs" --expired "$dir/certs" user late >/dev/null
"$root/scripts/certs" "$dir/other" user eve >/dev/null
cairnctl heap create h --shards 1 --size 32M >/dev/null
cluster_wait 60
p=$(cairnctl obj alloc h --size 16)

tls() { # certificate-without-ending [options...]; bytes on standard input
    local cert=$1
    shift
    timeout 20 openssl s_client -connect "127.0.0.1:$port" -CAfile "$dir/certs/ca.crt" -cert "$cert.crt" -key "$cert.key" \
        -quiet -no_ign_eof "$@" >"$dir/answer" 2>&1 || true
}
linger() { # bytes on standard input, then some time for the node to answer
    cat
    sleep 1
}

count=0
# Runs the attack; then exactly one new warning must name the peer and the cause, and the node must serve.
attack() { # cause command...
    local cause=$1 before lines
    shift
    before=$(wc -l <"$log")
    step "$cause"
    "$@"
    eventually 12 sh -c "tail -n +$((before + 1)) '$log' | grep -qE '$cause'"
    lines=$(tail -n +$((before + 1)) "$log" | grep -E 'WARN|ERROR')
    [ "$(wc -l <<<"$lines")" = 1 ] || fail "more than one line for one refusal: $lines"
    has "$lines" 'peer=127.0.0.1:[0-9]+.*cause="'
    count=$((count + 1))
    CAIRN_ENDPOINTS=127.0.0.1:$port expect 0 cairnctl obj write "h/$p" --data "after $count" --timeout 10
    kill -0 "${cluster_pids[1]}" || fail "the node is gone"
}

plain() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    # shellcheck disable=SC2059
    printf "$1" >&3
    timeout 3 cat <&3 >/dev/null || true
    exec 3>&-
}
attack 'plaintext HTTP where TLS 1.3 is required' plain 'GET / HTTP/1.1\r\n\r\n'
attack 'not TLS: plaintext where TLS 1.3 is required' plain '\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c'
no_certificate() {
    sleep 1 | timeout 10 openssl s_client -connect "127.0.0.1:$port" -CAfile "$dir/certs/ca.crt" >/dev/null 2>&1 || true
}
attack 'no certificate: a client certificate is required' no_certificate
stranger() { sleep 1 | tls "$dir/other/eve"; }
attack 'certificate refused: unable to get local issuer certificate \(CN=eve\)' stranger
late() { sleep 1 | tls "$dir/certs/late"; }
attack 'certificate refused: certificate has expired \(CN=late\)' late
old_tls() { sleep 1 | tls "$dir/certs/app" -tls1_2; }
attack 'an older TLS version: TLS 1.3 is required' old_tls
oversized() { { le 4 4294967295 && le 2 1 && head -c 26 /dev/zero; } | linger | tls "$dir/certs/app"; }
attack 'frame longer than the limit of 4 MiB' oversized
garbage() { { header 20 1 && head -c 20 /dev/zero | tr '\0' '\377'; } | linger | tls "$dir/certs/app"; }
attack 'protocol version 65535, but this node speaks version 2' garbage
malformed() { { header 20 1 && le 2 2 && le 2 0 && le 1 0 && head -c 15 /dev/zero; } | linger | tls "$dir/certs/app"; }
attack 'malformed HELLO' malformed
# (What begins with K, Q or R is a command to s_client.)
noise() { { printf '\377' && head -c 4095 /dev/urandom; } | linger | tls "$dir/certs/app"; }
attack 'refusing a connection .*name=app' noise
truncated() { { header 100 1 && head -c 20 /dev/zero && sleep 7; } | tls "$dir/certs/app"; }
attack 'no hello within 5 s' truncated
early() { { header 0 40 && sleep 1; } | tls "$dir/certs/app"; }
attack 'before the hello exchange' early
raft_lane() { hello 1 app | linger | tls "$dir/certs/app"; }
attack "the raft lane is for nodes, and .app. is a user" raft_lane
bulk_lane() { hello 2 app | linger | tls "$dir/certs/app"; }
attack "the bulk lane is for nodes, and .app. is a user" bulk_lane
another_engine() { hello 1 n2 | linger | tls "$dir/certs/n2"; }
attack 'n2 has engine 0\.0, this node [0-9]+\.[0-9]+, and replicas of two engines' another_engine
pretender() { hello 0 admin | linger | tls "$dir/certs/app"; }
attack "HELLO as .admin., but the certificate is that of .app." pretender
peer_batch=$(sed -n 's/^MESSAGE(PEER_BATCH, peer_batch, \([0-9]*\),.*/\1/p' "$root/rpc/message.def")
consensus() { { hello 0 app && header 4 "$peer_batch" && le 4 0; } | linger | tls "$dir/certs/app"; }
attack "PEER_BATCH .kind $peer_batch. does not belong on the client lane" consensus

step "a kind of message that this release doesn't know: answered with an error, the connection stays"
{ hello 0 app && header 0 250; } | linger | tls "$dir/certs/app"
grep -qa 'this node does not know that kind of message' "$dir/answer" || fail "no answer to an unknown kind"
step "watches and transactions that make no sense: each is answered with its reason"
kind_of() { sed -nE "s/^(MESSAGE|COMMAND)\($1, [a-z_]*, ([0-9]*),.*/\2/p" "$root/rpc/message.def"; }
expect 0 cairnctl heap set h retention=1h
uid=$(cairnctl shard ls h -o json | jq -r '.data.replicas[0].uid')
port=${cluster_ports[$(cluster_leader "$uid")]}
watch() { # uid token [bytes that are sent of it]
    { le 8 "$1" && le 1 1 && le 8 "$2" && le 8 0 && le 4 0 && le 4 10 && le 4 65536 && le 1 5 && le 1 0 && le 8 0 && le 4 0 && le 2 0; } \
        >"$dir/whole"
    head -c "${3:-53}" "$dir/whole" >"$dir/body"
    header "$(stat -c %s "$dir/body")" "$(kind_of WATCH)" && cat "$dir/body"
}
tx_commit() { # bytes of parts, on standard input
    { le 8 "$uid" && le 8 77 && le 8 1 && le 8 0 && le 8 -1 && le 4 "$1" && cat; } >"$dir/body"
    header "$(stat -c %s "$dir/body")" "$(kind_of TX_COMMIT)" && cat "$dir/body"
}
answered() { # with: what was sent is on standard input
    { hello 0 app && cat; } | linger | tls "$dir/certs/app"
    grep -qaE "$1" "$dir/answer" || fail "\"$1\" is not in the answer: $(tr -dc '[:print:]' <"$dir/answer")"
    expect 0 cairnctl obj write "h/$p" --data on --timeout 10
}
watch "$uid" -1 | answered 'ahead of this shard'
watch "$uid" 0 | answered 'the oldest token'
watch 999 1 | answered 'no replica of this shard on this node'
for len in 0 7 8 9 20 52; do watch "$uid" 1 $len | answered 'protocol violation|no replica of this shard'; done
head -c 65536 /dev/zero | tx_commit 65536 | answered 'the session is unknown here'
head -c 65536 /dev/zero | tr '\0' '\377' | tx_commit 65536 | answered 'the session is unknown here'
head -c 100 /dev/zero | tx_commit 65536 | answered 'protocol violation|the session is unknown here'

step "a frame that ends in the middle with its connection: nothing to answer, and the node goes on"
{ hello 0 app && header 1000 40 && head -c 10 /dev/zero; } | linger | tls "$dir/certs/app"
expect 0 cairnctl obj write "h/$p" --data last
expect 0 cairnctl obj read "h/$p" --len 4 --file -
[ "$out" = last ] || fail "read $out"
cluster_wait 10
expect 0 cairnctl replica check --timeout 30
