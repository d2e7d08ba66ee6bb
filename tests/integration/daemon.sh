#!/usr/bin/env bash
# cairnd as a process: checking a configuration, probing, refusing to start with words, certificates loaded again on SIGHUP,
# a node that lost its disk.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster
yaml=$dir/n1.yaml

step "--check-config"
expect 0 cairnd --config "$yaml" --check-config
has "$out" 'ok: node n1 of cluster local with 3 nodes'
expect 0 cairnd --config "$root/deploy/cairnd.yaml" --check-config
variant() { # sed-expression wanted-words
    sed -e "$1" "$yaml" >"$dir/variant.yaml"
    expect 2 cairnd --config "$dir/variant.yaml" --check-config
    has "$err" "^cairnd: (CONFIG|NOTFOUND): .*$2"
}
variant 's/^name:.*/name: n9/' 'name is n9, but nodes has no entry of that name'
variant 's/^listen:.*/listen: here/' 'listen is "here", but must be HOST:PORT'
variant '/^data_dir:/d' 'data_dir is not set, neither in a file nor as CAIRND_DATA_DIR'
variant '/^tls:/d' 'there is no plaintext mode'
# shellcheck disable=SC2016 # sed's $ is the last line
variant '$a surprise: 1' 'surprise.*line:'
# shellcheck disable=SC2016
variant '$a raft: {election_ms: 5}' 'raft.election_ms is "5", but must be a whole number from 100 to 60000'
# shellcheck disable=SC2016
variant '$a log: {level: loud}' 'must be one of debug\|info\|warn\|error\|off'
expect 2 cairnd --config "$dir/nosuch.yaml" --check-config
has "$err" 'nosuch.yaml can.t be read'
CAIRND_RAFT_HEARTBEAT_MS=soon expect 2 cairnd --config "$yaml" --check-config
has "$err" 'CAIRND_RAFT_HEARTBEAT_MS: raft.heartbeat_ms is "soon"'
CAIRND_RAFT_HEARTBEAT=200 expect 0 cairnd --config "$yaml" --check-config
has "$err" 'this variable sets nothing: no key has that name variable=CAIRND_RAFT_HEARTBEAT$'
sed -e '1s/^/\xef\xbb\xbf/' -e 's/$/\r/' "$yaml" >"$dir/windows.yaml"
expect 0 cairnd --config "$dir/windows.yaml" --check-config
has "$out" 'ok: node n1 of cluster local with 3 nodes'
expect 2 cairnd --bogus
expect 2 cairnd surprise
expect 0 cairnd --version
has "$out" '^cairnd [0-9]+\.[0-9]+'

step "health, readiness, metrics"
# The reactor publishes its state once a second.
eventually 5 cairnd --probe "127.0.0.1:${cluster_http[1]}"
expect 1 cairnd --probe 127.0.0.1:1
expect 0 curl -sf "http://127.0.0.1:${cluster_http[1]}/healthz"
expect 0 curl -sf "http://127.0.0.1:${cluster_http[1]}/metrics"
has "$out" '^cairn_up 1$'
has "$out" '^cairn_shards_without_leader 0$'

step "a second cairnd on the same data directory"
cluster_free_port
CAIRND_LISTEN=127.0.0.1:$cluster_port CAIRND_HTTP='' expect 1 cairnd --config "$yaml"
has "$err" 'is another cairnd running on this data directory\?'

step "a port in use, certificates that don't fit, a foreign data directory"
CAIRND_DATA_DIR=$dir/fresh CAIRND_HTTP='' expect 1 cairnd --config "$yaml"
has "$err" "can't listen on 127.0.0.1:${cluster_ports[1]}: address already in use"
CAIRND_DATA_DIR=$dir/fresh CAIRND_TLS_CERT=$dir/certs/n2.crt CAIRND_TLS_KEY=$dir/certs/n2.key expect 2 cairnd --config "$yaml"
has "$err" 'is the certificate of node "n2", but this node.s name is n1'
CAIRND_DATA_DIR=$dir/fresh CAIRND_TLS_CERT=$dir/certs/admin.crt CAIRND_TLS_KEY=$dir/certs/admin.key expect 2 cairnd --config "$yaml"
has "$err" 'admin'
CAIRND_DATA_DIR=$dir/fresh CAIRND_TLS_KEY=$dir/certs/n2.key expect 1 cairnd --config "$yaml"
CAIRND_DATA_DIR=$dir/fresh CAIRND_TLS_CA=/nonexistent expect 1 cairnd --config "$yaml"
has "$err" '/nonexistent'
"$root/scripts/certs" "$dir/other" node n1 localhost 127.0.0.1 >/dev/null
CAIRND_DATA_DIR=$dir/fresh CAIRND_TLS_CERT=$dir/other/n1.crt CAIRND_TLS_KEY=$dir/other/n1.key expect 1 cairnd --config "$yaml"
has "$err" 'is not valid under the CA'
CAIRND_DATA_DIR=/proc/nowhere CAIRND_HTTP='' expect 1 cairnd --config "$yaml"
has "$err" 'data_dir /proc/nowhere'
cluster_term 2
CAIRND_DATA_DIR=$dir/n2 CAIRND_HTTP='' expect 2 cairnd --config "$yaml"
has "$err" 'belongs to node number 2, but the configuration says that n1 is number 1'

step "storage that isn't there, an identity that is damaged"
CAIRND_STORAGE_MODE=pmem expect 2 cairnd --config "$dir/n2.yaml"
has "$err" 'is not on persistent memory: set storage.mode'
cp "$dir/n2/identity" "$dir/identity"
printf 'X' | dd of="$dir/n2/identity" bs=1 seek=30 conv=notrunc status=none
expect 1 cairnd --config "$dir/n2.yaml"
has "$err" 'identity is damaged: the node can.t prove who it is'
cp "$dir/identity" "$dir/n2/identity"
cluster_start 2
cluster_wait 60

step "SIGHUP: new certificates are used, bad ones refused while the old stay in use"
serial() { # what n1 shows
    openssl s_client -connect "127.0.0.1:${cluster_ports[1]}" -CAfile "$dir/certs/ca.crt" -cert "$dir/certs/admin.crt" \
        -key "$dir/certs/admin.key" </dev/null 2>/dev/null | openssl x509 -noout -serial
}
before=$(serial)
[ -n "$before" ] || fail "n1 shows no certificate"
"$root/scripts/certs" --force "$dir/certs" node n1 localhost 127.0.0.1 >/dev/null
[ "$(serial)" = "$before" ] || fail "certificates changed before SIGHUP"
kill -HUP "${cluster_pids[1]}"
eventually 10 grep -q 'certificates loaded again' "$dir/n1.log"
after=$(serial)
[ "$after" != "$before" ] || fail "the old certificate is still in use after SIGHUP"
cp "$dir/certs/n1.crt" "$dir/good.crt"
echo garbage >"$dir/certs/n1.crt"
kill -HUP "${cluster_pids[1]}"
eventually 10 grep -q 'certificates not reloaded, the old ones stay in use.*n1.crt' "$dir/n1.log"
[ "$(serial)" = "$after" ] || fail "the node lost its certificate to a bad file"
cp "$dir/good.crt" "$dir/certs/n1.crt"
CAIRN_ENDPOINTS=127.0.0.1:${cluster_ports[1]} expect 0 cairnctl heap create h --shards 2 --size 32M
cluster_wait 60

step "SIGTERM ends with 0 and a clean log"
cluster_term 1
grep -q 'stopped' "$dir/n1.log"

step "without standard input, output and error nothing takes their place"
cairnd --config "$yaml" <&- >&- 2>&- &
cluster_pids[1]=$!
cluster_wait 60
for fd in 0 1 2; do
    [ "$(readlink "/proc/${cluster_pids[1]}/fd/$fd")" = /dev/null ] || fail "fd $fd is $(readlink "/proc/${cluster_pids[1]}/fd/$fd")"
done
cluster_term 1 || fail "cairnd without standard streams ended with $?"
cluster_start 1
cluster_wait 60

step "a lost disk: the node rejoins under a new replica id and is filled"
expect 0 cairnctl obj alloc h --data kept
p=$out
cluster_kill 3
rm -rf "$dir/n3"
cluster_start 3
cluster_wait 90
grep -q 'this disk is new: rejoining under a new replica id' "$dir/n3.log"
expect 0 cairnctl replica check --timeout 60
expect 0 cairnctl obj read "h/$p" --file -
[ "$out" = kept ] || fail "read $out"
