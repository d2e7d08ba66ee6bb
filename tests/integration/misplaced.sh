#!/usr/bin/env bash
# A node that is started with a directory that isn't its own, that has lost a part, or with a configuration that doesn't fit:
# it refuses in words, changes nothing, and its cluster goes on; put right, it is whole again.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
shim=$(find "$build" -name 'wall_shim.so' -type f | head -n 1)
[ -n "$shim" ] || fail "wall_shim.so is not built in $build"
it_cluster
expect 0 cairnctl heap create h --shards 2 --size 32M
cluster_wait 60
p=$(cairnctl obj alloc h --size 16)
expect 0 cairnctl checkpoint now
for i in 1 2 3; do expect 0 cairnctl obj write "h/$p" --data "$i"; done
cluster_term 1
cp -a "$dir/n1" "$dir/saved"
cp "$dir/n1.yaml" "$dir/saved.yaml"

reset() {
    rm -rf "$dir/n1"
    cp -a "$dir/saved" "$dir/n1"
    cp "$dir/saved.yaml" "$dir/n1.yaml"
}
configure() { sed -i "$1" "$dir/n1.yaml"; }
contents() { (cd "$dir/n1" && find . -type f ! -name lock ! -name probe -exec sha256sum {} + | sort); }
count=0
serves() {
    count=$((count + 1))
    CAIRN_ENDPOINTS=127.0.0.1:${cluster_ports[2]} expect 0 cairnctl obj write "h/$p" --data "w$count" --timeout 20
}
refused() { # what rc words [wrapper...]
    local before what=$1 rc=$2 words=$3
    shift 3
    step "$what"
    before=$(contents)
    expect "$rc" timeout -s KILL 20 "$@" "$cluster_bin/cairnd" --config "$dir/n1.yaml"
    has "$err" "$words"
    [ "$(contents)" = "$before" ] || fail "$what: the directory was changed"
    serves
    reset
}
warned() { # what words: it runs, and says what is wrong
    step "$1"
    local before
    before=$(wc -l <"$dir/n1.log")
    cluster_start 1
    eventually 20 sh -c "tail -n +$((before + 1)) '$dir/n1.log' | grep -qE -- '$2'"
    serves
    cluster_kill 1
    reset
}

reset
rm -rf "$dir/n1"
cp -a "$dir/n2" "$dir/n1"
refused "another node's directory" 2 'belongs to node number 2, but the configuration says that n1 is number 1'

# A cluster of one, of the same name: its directory has the right number, and would be led by itself.
mkdir "$dir/lone"
cluster_free_port
sed -e "s,^data_dir:.*,data_dir: $dir/lone/n1," -e '/name: n[23]/d' -e "s/:${cluster_ports[1]}/:$cluster_port/" \
    -e '/^http:/d' "$dir/saved.yaml" >"$dir/lone.yaml"
"$cluster_bin/cairnd" --config "$dir/lone.yaml" >"$dir/lone.log" 2>&1 &
lone=$!
eventually 20 grep -q 'founding the cluster' "$dir/lone.log"
eventually 20 env CAIRN_ENDPOINTS="127.0.0.1:$cluster_port" cairnctl status --wait healthy --timeout 10
kill -TERM $lone
wait $lone || fail "the lone node: $(tail -n 3 "$dir/lone.log")"
rm -rf "$dir/n1"
mv "$dir/lone/n1" "$dir/n1"
refused "the directory of another cluster" 2 'belongs to a cluster of (another name|1 nodes)'

configure 's/^cluster: .*/cluster: other/'
refused "the configuration of another cluster" 2 'belongs to a cluster of another name than "other"'
configure '/name: n3, number/d'
refused "a configuration that misses a node" 2 'belongs to a cluster of 3 nodes'
configure '/name: n3, number/p; s/name: n3, number: 3, address: ".*"/name: n4, number: 4, address: "127.0.0.1:1"/'
refused "a configuration with a node more" 2 'belongs to a cluster of 3 nodes'

rm "$dir/n1/identity"
refused "no identity, but a log" 1 'has no identity file'
truncate -s 100 "$dir/n1/identity"
refused "half an identity" 1 'identity is damaged'
rm -r "$dir/n1/wal"
refused "no log" 1 'the log in .* is gone'
rm "$dir"/n1/wal/0*
refused "no segment of the log" 1 'the log in .* is gone'
for segment in "$dir"/n1/wal/0*; do printf 'x' | dd of="$segment" bs=1 seek=8 conv=notrunc status=none; done
refused "a log with a damaged header" 1 'log segment [0-9]+ of .* has a damaged header'
rm -r "$dir/n1"
: >"$dir/n1"
contents() { :; }
refused "a file instead of a directory" 1 'is .* a directory that cairnd may write to'
if [ "$(id -u)" = 0 ]; then
    chmod 755 "$dir" "$dir/certs"
    chown 65534 "$dir"/certs/*
    chmod 500 "$dir/n1"
    refused "a directory that is another user's" 1 'permission denied.*may write to' setpriv --reuid=65534 --clear-groups
    chown 0 "$dir"/certs/*
fi

configure 's/name: n2, number: 2/name: n2, number: 4/; s/name: n3, number: 3/name: n3, number: 2/; s/number: 4/number: 3/'
warned "the numbers of two peers changed places" 'n[23] has number [23] in its cluster, and [23] here'
configure "s/:${cluster_ports[2]}\"/:0\"/; s/:${cluster_ports[3]}\"/:${cluster_ports[2]}\"/; s/:0\"/:${cluster_ports[3]}\"/"
warned "the addresses of two peers changed places" 'certificate is that of .n[23]., but .n[23]. was expected'
rm -rf "$dir/n1"
configure 's/^cluster: .*/cluster: other/'
warned "an empty directory, and the name of another cluster" 'belongs to a cluster of another name than "other"'

step "a superblock that is cut: that shard stops here, the others go on, and nothing of it is removed"
super=$(find "$dir/n1/shards" -name super | sort | tail -n 1)
truncate -s 100 "$super"
cluster_start 1
eventually 20 grep -q 'a shard stopped serving here.*neither slot is a valid superblock' "$dir/n1.log"
stopped() { grep -q '1 shards failed' <<<"$(cairnctl status -o json | jq -r '.data.nodes[] | select(.node == "n1") | .finding')"; }
eventually 20 stopped
serves
cluster_term 1
[ "$(stat -c %s "$super")" = 100 ] || fail "$super was written"
reset

step "clocks that were set back by a day: versions go on from where they were"
version() { cairnctl obj stat "h/$p" -o json | jq -r .data.version; }
before=$(version)
cluster_stop
export ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0
echo -86400000 >"$dir/wall"
for n in 1 2 3; do export "CLUSTER_WRAP_$n=env LD_PRELOAD=$shim CAIRN_WALL_FILE=$dir/wall"; done
cluster_start
cluster_wait 60
expect 0 cairnctl obj write "h/$p" --data yesterday
[ "$(version)" -gt "$before" ] || fail "the version $(version) isn't above $before"
expect 0 cairnctl obj read "h/$p" --len 9 --file -
[ "$out" = yesterday ] || fail "read $out"
expect 0 cairnctl replica check --timeout 60
expect 0 cairnctl heap check h
