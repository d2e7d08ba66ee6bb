#!/usr/bin/env bash
# Transactions over shards of three nodes: the bank's total stays while nodes are killed, the tree stays a tree, and
# cairnctl's transactions happen as a whole or not at all. Afterwards all replicas are equal.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster ex9_bank ex10_tree

step "the tree: four threads, every insertion a transaction"
expect 0 ex10_tree 200 4
has "$out" '^200 keys added, 200 in order$'
expect 0 ex10_tree 250 4
has "$out" '^50 keys added, 250 in order$'

step "the bank, undisturbed"
expect 0 ex9_bank 2 4
has "$out" ' transfers in .* audits: total 32000 each time$'

step "the bank, while one node after the other is killed"
ex9_bank 15 6 >"$dir/bank" 2>&1 &
bank=$!
for n in 1 2 3; do
    sleep 2
    cluster_kill $n
    sleep 1
    cluster_start $n
    cluster_wait 60
done
wait $bank || fail "the bank failed: $(cat "$dir/bank")"
has "$(cat "$dir/bank")" '^[1-9][0-9]* transfers in .* [1-9][0-9]* audits: total 32000 each time$'

step "the bank, after all nodes were killed in the middle of it"
ex9_bank 6 6 >"$dir/bank" 2>&1 &
bank=$!
sleep 2
for n in 1 2 3; do cluster_kill $n; done
cluster_start
cluster_wait 60
wait $bank || fail "the bank failed: $(cat "$dir/bank")"
expect 0 ex9_bank 2 4
has "$out" ' transfers in .* audits: total 32000 each time$'

step "by hand: read and write over two shards, then commit"
expect 0 cairnctl heap create hand --shards 4 --size 64M --retention 10m
cluster_wait 60
for name in a b c d; do
    expect 0 cairnctl obj alloc hand --data "$name-0"
    expect 0 cairnctl root set hand "$name" "$out"
done
tx=$dir/tx.json
expect 0 cairnctl tx begin hand "$tx"
expect 2 cairnctl tx begin hand
expect 4 cairnctl tx begin hand "$tx"
[ "$(stat -c %a "$tx")" = 600 ] || fail "others may read $tx"
expect 0 cairnctl tx read "$tx" a -o json
has "$out" '"hex": "612d30"'
for name in a b c d; do expect 0 cairnctl tx write "$tx" "$name" --data "$name-1"; done
expect 0 cairnctl tx read "$tx" b -o json
has "$out" '"hex": "622d31"'
expect 0 cairnctl obj read hand/b -o json
has "$out" '"hex": "622d30"'
expect 0 cairnctl tx commit "$tx" -o json
id=$(jq -r .data.id <<<"$out")
[ "$(jq -r .data.version <<<"$out")" -gt 0 ] || fail "no version: $out"
expect 0 cairnctl tx show "$id" -o json
jq -e '.data | (.in_doubt | not) and (.shards | length) > 1 and any(.shards[]; .home) and
    all(.shards[]; .state == "committed" or .state == "in doubt")' <<<"$out" >/dev/null || fail "tx show: $out"
expect 0 cairnctl tx show "$id"
has "$out" ' committed '
expect 0 cairnctl tx trace "$id" -o json
jq -e '([.data.steps[] | select(.step == "prepare") | .uid] | unique | length) > 1 and
    ([.data.steps[] | select(.step == "commit") | .uid] | unique | length) > 1 and .data.steps[0].step == "prepare" and
    ([.data.steps[] | .stamp | tonumber] | . == sort)' <<<"$out" >/dev/null || fail "tx trace: $out"
expect 0 cairnctl tx trace "$id"
has "$out" ' prepare +[1-9]'
expect 3 cairnctl tx show 16.1.1
expect 3 cairnctl tx trace 16.1.1
expect 2 cairnctl tx show 'no id'
expect 2 cairnctl tx trace
# Its answer had arrived, and its session ended with the call: nobody keeps it, and nobody makes an answer up.
expect 5 cairnctl tx outcome "$id"
has "$out" '^unknown$'
expect 2 cairnctl tx outcome 'no id'
expect 0 cairnctl tx ls -o json
jq -e '[.data.transactions[] | select(.state == "committed")] | length > 0' <<<"$out" >/dev/null || fail "no commit: $out"
expect 0 cairnctl tx stats -o json
[ "$(jq '[.data.nodes[].committed] | add' <<<"$out")" -gt 0 ] || fail "nobody has committed anything: $out"
nothing_in_doubt() { [ "$(cairnctl tx ls --in-doubt -o json | jq '.data.transactions | length')" = 0 ]; }
eventually 10 nothing_in_doubt
[ ! -e "$tx" ] || fail "$tx is still there"
for name in a b c d; do
    expect 0 cairnctl obj read "hand/$name" --file -
    [ "$out" = "$name-1" ] || fail "$name holds $out"
done

step "by hand: what was read has changed"
expect 0 cairnctl tx begin hand "$tx"
expect 0 cairnctl tx read "$tx" a
expect 0 cairnctl tx write "$tx" b --data 'b-2'
expect 0 cairnctl obj write hand/a --data 'a-9'
expect 4 cairnctl tx commit "$tx"
has "$err" 'CAIRN_E_CONFLICT'
expect 0 cairnctl obj read hand/b --file -
[ "$out" = b-1 ] || fail "b holds $out"
expect 0 cairnctl tx abort "$tx"
expect 3 cairnctl tx abort "$tx"
echo '{"format": 1}' >"$tx"
expect 2 cairnctl tx commit "$tx"
has "$err" 'is not a transaction'

step "swap and rollback"
expect 0 cairnctl root get hand a -o json
a=$(jq -r .data.pointer <<<"$out")
expect 0 cairnctl root get hand b -o json
b=$(jq -r .data.pointer <<<"$out")
word() { expect 0 cairnctl ptr decode "$1" -o json && jq -r .data.word <<<"$out"; }
bytes() { le 8 "$1" | od -An -v -tx1 | tr -d ' \n'; }
for name in left right; do
    [ $name = left ] && points=$a || points=$b
    expect 0 cairnctl obj alloc hand --hex "$(bytes "$(word "$points")")"
    expect 0 cairnctl root set hand $name "$out"
done
expect 0 cairnctl ptr swap hand left:0 right:0
expect 0 cairnctl obj read hand/left -o json
has "$out" "\"hex\": \"$(bytes "$(word "$b")")\""
expect 0 cairnctl obj read hand/right -o json
has "$out" "\"hex\": \"$(bytes "$(word "$a")")\""
expect 2 cairnctl ptr swap hand left right:0
expect 3 cairnctl ptr swap hand nosuch:0 right:0
expect 0 cairnctl obj stat hand/c -o json
version=$(jq -r .data.version <<<"$out")
expect 0 cairnctl obj write hand/c --data 'xxx'
expect 0 cairnctl obj rollback hand/c --at "$version"
expect 0 cairnctl obj read hand/c --file -
[ "$out" = c-1 ] || fail "c holds $out"

step "levels and times by hand"
rm -f "$tx"
expect 0 cairnctl root get hand a
now=$out
expect 0 cairnctl obj write hand/a --data 'old'
expect 0 cairnctl obj stat hand/a -o json
then=$(jq -r .data.version <<<"$out")
expect 2 cairnctl tx begin hand "$tx" --isolation strict
expect 0 cairnctl tx begin hand "$tx" --isolation snapshot
expect 0 cairnctl tx read "$tx" a -o json
expect 0 cairnctl obj write hand/a --data 'new'
expect 0 cairnctl tx read "$tx" a -o json
[ "$(jq -r .data.hex <<<"$out")" = 6f6c64 ] || fail "not as of the first read: $out"
expect 0 cairnctl tx write "$tx" a --data 'own'
expect 4 cairnctl tx commit "$tx"
expect 0 cairnctl tx abort "$tx"
expect 0 cairnctl tx begin hand "$tx" --isolation read-committed
expect 0 cairnctl tx read "$tx" a -o json
expect 0 cairnctl obj write hand/a --data 'any'
expect 0 cairnctl tx write "$tx" b --data 'own'
expect 0 cairnctl tx commit "$tx"
expect 0 cairnctl tx begin hand "$tx" --at "$then"
expect 0 cairnctl tx read "$tx" a -o json
[ "$(jq -r .data.hex <<<"$out")" = 6f6c64 ] || fail "not as of $then: $out"
expect 2 cairnctl tx write "$tx" a --data 'own'
expect 0 cairnctl tx abort "$tx"
sleep 1
moment=$(date -u +%FT%T.%3N+00:00)
sleep 1
expect 0 cairnctl root set hand fresh "$now"
expect 0 cairnctl root rm hand a
expect 3 cairnctl root get hand a
expect 0 cairnctl root get hand a --at "$moment"
[ "$out" = "$now" ] || fail "the root was $now, and is said to have been $out"
expect 0 cairnctl obj read hand/a --at "$moment" --file -
expect 3 cairnctl root get hand fresh --at "$moment"
expect 0 cairnctl root ls hand --at "$moment" -o json
jq -e '[.data.roots[].name] | index("a") != null and index("fresh") == null' <<<"$out" >/dev/null || fail "roots of then: $out"
expect 0 cairnctl root ls hand --at "$(date -u +%FT%T.000+00:00)" -o json
too_old() { # verb...: history is given back every few seconds; before that it reaches back to the heap's beginning
    local said
    said=$(cairnctl "$@" --at -1h 2>&1) || true
    grep -q 'heap get HEAP' <<<"$said"
}
eventually 30 too_old root ls hand
expect 3 cairnctl root ls hand --at -1h
eventually 30 too_old obj read "hand/$now"
expect 3 cairnctl obj read "hand/$now" --at -1h
has "$err" 'heap get HEAP'
expect 2 cairnctl root get hand a --at yesterday
expect 0 cairnctl heap create brief --shards 1 --size 16M --retention 2s
cluster_wait 60
expect 0 cairnctl obj alloc brief --data 'first'
brief=brief/$out
expect 0 cairnctl obj stat "$brief" -o json
first=$(jq -r .data.version <<<"$out")
oldest_is_told() { # and it can be read
    local said oldest
    cairnctl obj write "$brief" --data 'later' >/dev/null
    said=$(cairnctl obj read "$brief" --at "$first" 2>&1) && return 1
    oldest=$(sed -nE 's/.*CAIRN_E_SNAPSHOT_TOO_OLD: .* the oldest that can be read of this shard is ([0-9]+) \(20[0-9-]+T[0-9:.]+Z\); its heap keeps versions for 2 s\..*/\1/p' <<<"$said")
    [ -n "$oldest" ] && cairnctl obj read "$brief" --at "$oldest" >/dev/null
}
eventually 30 oldest_is_told

step "blame says who"
"$root/scripts/certs" "$dir/certs" user app >/dev/null
as_app() { CAIRN_CERT=$dir/certs/app.crt CAIRN_KEY=$dir/certs/app.key "$@"; }
expect 0 cairnctl obj alloc hand --data 'who wrote these?'
shared=hand/$out
expect 0 cairnctl root set hand shared "$out"
expect 0 as_app cairnctl obj write "$shared" --off 4 --data 'WROTE'
expect 0 cairnctl tx begin hand "$tx"
expect 0 cairnctl tx write "$tx" shared --off 10 --data 'THESE'
for name in b c d; do expect 0 cairnctl tx write "$tx" "$name" --data "$name-3"; done
expect 0 cairnctl tx commit "$tx" -o json
id=$(jq -r .data.id <<<"$out")
expect 0 cairnctl obj blame "$shared"
has "$out" ' 5 +write +app '
expect 0 cairnctl obj blame "$shared" -o json
jq -e '[.data.ranges[] | [.offset, .length, .user, .writer.command]] == [[0, 4, "admin", "ALLOC"], [4, 5, "app", "WRITE"],
    [9, 1, "admin", "ALLOC"], [10, 5, "admin", "TX_DECIDE"], [15, 1, "admin", "ALLOC"]]' <<<"$out" >/dev/null || fail "blame: $out"
named=$(jq -r '.data.ranges[3].writer | "\(.home).\(.session).\(.seq)"' <<<"$out")
expect 0 cairnctl tx trace "$named" -o json
traced=$(jq -c '[.data.steps[].committed_at | values] | unique' <<<"$out")
expect 0 cairnctl tx trace "$id" -o json
[ "$(jq -c '[.data.steps[].committed_at | values] | unique' <<<"$out")" = "$traced" ] || fail "$named isn't $id"

step "all replicas are equal, and sound"
expect 0 cairnctl replica check --timeout 60
expect 0 cairnctl heap check bank
expect 0 cairnctl heap check hand
