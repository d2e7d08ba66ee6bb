#!/usr/bin/env bash
# Watches: what is seen is what was written, once and in order, though the leader is killed meanwhile; tokens; what is refused.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster test_embed_watch

expect 0 cairnctl heap create w --shards 3 --retention 10m
expect 0 cairnctl obj alloc w --size 8 --type 7
ptr=$out
token_of() { sed -n 's/^to go on: --from //p' "$1"; }

step "changes of an object, in order, with the leader killed meanwhile"
cairnctl watch w --object "$ptr" --count 40 --timeout 120 -o json >"$dir/seen" 2>"$dir/seen.err" &
watcher=$!
cairnctl watch w --type 7 --timeout 120 --count 40 -o json >"$dir/typed" 2>/dev/null &
typed=$!
sleep 2
for i in $(seq 40); do
    expect 0 cairnctl obj write "w/$ptr" --hex "$(printf %016x "$i")"
    if [ "$i" = 12 ]; then
        leader=$(cairnctl shard ls w -o json | jq -r '[.data[][] | select(.state == "leader")][0].node')
        case $leader in n[1-3]) cluster_kill "${leader#n}" ;; *) fail "no leader: $leader" ;; esac
    fi
done
wait $watcher || fail "the watch ended with $?: $(cat "$dir/seen.err")"
wait $typed || fail "the watch of the type ended with $?"
[ "$(wc -l <"$dir/seen")" = 40 ] || fail "not 40 changes: $(cat "$dir/seen")"
# Nothing is missed or doubled: each change names the version before it.
jq -rs '[.[].version] as $v | [.[].before] as $b | [range(1; length) | select($v[. - 1] != $b[.])] | length' "$dir/seen" >"$dir/gaps"
[ "$(cat "$dir/gaps")" = 0 ] || fail "gaps: $(cat "$dir/seen")"
cmp <(jq -r .version "$dir/seen") <(jq -r .version "$dir/typed") || fail "the type's changes are others than its only object's"
cluster_start "${leader#n}"
cluster_wait 60

step "from a token in another process, from a version, from the oldest"
token=$(jq -r .token "$dir/seen" | sed -n 10p)
expect 0 cairnctl watch w --object "$ptr" --from "$token" --count 30 --timeout 20 -o json
[ "$(jq -r .version <<<"$out")" = "$(jq -r .version "$dir/seen" | tail -n 30)" ] || fail "from a token: $out"
[ "$(token_of "$dir/err")" = "$(jq -r .token "$dir/seen" | tail -n 1)" ] || fail "another token: $err"
version=$(jq -r .version "$dir/seen" | sed -n 35p)
expect 0 cairnctl watch w --object "$ptr" --from "$version" --count 5 --timeout 20 -o json
[ "$(jq -r .version <<<"$out")" = "$(jq -r .version "$dir/seen" | tail -n 5)" ] || fail "from a version: $out"
expect 0 cairnctl watch w --object "$ptr" --from oldest --count 2 --timeout 20
has "$out" ' birth .* [0-9]+ bytes$'
has "$out" ' write .* [0-9]+ bytes at [0-9]+ of [0-9]+$'
expect 0 cairnctl watch w --object "$ptr" --from oldest --count 41 --timeout 20 -o json
[ "$(jq -r .kind <<<"$out" | head -n 1)" = birth ] || fail "the oldest is no birth: $out"
expect 0 cairnctl watch w --object "$ptr" --from -10m --count 41 --timeout 20 -o json

step "roots: a name, a prefix"
expect 0 cairnctl root set w user/1 "$ptr"
expect 0 cairnctl root set w other "$ptr"
expect 0 cairnctl root rm w user/1
expect 0 cairnctl watch w --root user/1 --from oldest --count 2 --timeout 20 -o json
[ "$(jq -r .kind <<<"$out" | tr '\n' ' ')" = "root-set root-delete " ] || fail "a name: $out"
expect 0 cairnctl watch w --roots user/ --from oldest --count 2 --timeout 20
has "$out" 'root-delete +- +user/1$'

step "an interrupt says where to go on"
cairnctl watch w --object "$ptr" >/dev/null 2>"$dir/int" &
watcher=$!
sleep 2
kill -TERM $watcher
wait $watcher || fail "interrupted: $?"
expect 0 cairnctl obj write "w/$ptr" --hex 00
expect 0 cairnctl watch w --object "$ptr" --from "$(token_of "$dir/int")" --count 1 --timeout 20 -o json

step "what is refused"
expect 0 cairnctl heap create plain --shards 1
expect 2 cairnctl watch plain
has "$err" 'keeps no history'
expect 2 cairnctl watch w --root user/1 --from "$token"
expect 2 cairnctl watch w --object "$ptr" --root user/1
expect 0 cairnctl obj alloc plain --size 8
expect 0 cairnctl heap set plain retention=10m
expect 3 cairnctl watch plain --from 1
has "$err" 'the oldest version to watch this shard from is [0-9]+'
expect 7 cairnctl watch w --object "$ptr" --timeout 1

step "the SDK's watches, on five shards"
expect 0 env WATCH_SHARDS=5 test_embed_watch cluster
step "the same while one node after the other is killed"
WATCH_SHARDS=3 test_embed_watch cluster >"$dir/killed" 2>&1 &
watcher=$!
for n in 1 2 3; do
    sleep 3
    cluster_kill $n
    sleep 1
    cluster_start $n
    cluster_wait 60
done
wait $watcher || fail "with nodes killed: $(tail -n 20 "$dir/killed")"
