#!/usr/bin/env bash
# The engine through a live cluster: sizes, types, history, checks, compaction and shrinking, with nodes that are killed in
# between; afterwards all replicas are equal.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster

ask() { # filter arguments...: the answer's data through jq
    local filter=$1
    shift
    expect 0 cairnctl "$@" -o json
    jq -r "$filter" <<<"$out"
}
holds() { # filter arguments...
    local filter=$1
    shift
    expect 0 cairnctl "$@" -o json
    jq -e "$filter" >/dev/null <<<"$out" || fail "$*: $filter does not hold: $out"
}

expect 0 cairnctl heap create bank --shards 2 --size 64M --retention 10m
cluster_wait 60

step "settings"
expect 0 cairnctl heap get bank
has "$out" '^retention=10m '
holds '.data.retention_ms == 600000 and .data.uniform' heap get bank
expect 0 cairnctl heap set bank retention=1h
has "$out" '^retention=1h '
expect 2 cairnctl heap set bank retention=soon
expect 2 cairnctl heap set bank retention=10000d

step "types"
expect 0 cairnctl type register bank account balance:i64 next:ptr=account owners:ptr*2 name:chars*16 rate:f64
has "$out" 'type account registered: number [0-9]+, 56 bytes, 5 fields'
type=$(ask '.data.types[0].number' type ls bank)
holds '[.data.types[] | .name] == ["account"] and .data.types[0].size == 56' type ls bank
expect 0 cairnctl type show bank account
has "$out" '^next +ptr +8 +8 account'
has "$out" '^name +chars\*16 +32 +16'
expect 0 cairnctl type show bank "$type"
expect 3 cairnctl type show bank nosuch
expect 0 cairnctl type register bank account balance:i64 next:ptr=account owners:ptr*2 name:chars*16 rate:f64 more:u32
has "$out" '6 fields'
expect 4 cairnctl type register bank account balance:u32
expect 2 cairnctl type register bank wrong balance:i63

step "an object by its fields"
# balance -5, next null, owners null, name "alice", rate 0.5
expect 0 cairnctl obj alloc bank --type "$type" --size 64 \
    --hex fbffffffffffffff000000000000000000000000000000000000000000000000616c6963650000000000000000000000000000000000e03f
p=$out
expect 0 cairnctl root set bank alice "$p"
expect 0 cairnctl obj show bank/alice
has "$out" 'type account '
has "$out" '^balance +i64 +0 -5'
has "$out" '^next +ptr\S* +8 null'
has "$out" '^name +chars\*16 +32 alice'
has "$out" '^rate +f64 +48 0.5'
holds '[.data.fields[] | select(.name == "balance") | .value] == ["-5"] and .data.type == "account"' obj show bank/alice
expect 0 cairnctl obj show bank/alice --field balance
[ "$out" = -5 ]
holds '[.data.fields[].name] == ["balance"]' obj show bank/alice --field balance
expect 3 cairnctl obj show bank/alice --field none
expect 0 cairnctl obj alloc bank --data plain
expect 0 cairnctl obj show "bank/$out"
has "$err" 'has no type'

step "history, and reading at a version"
v1=$(ask .data.version obj stat bank/alice)
expect 0 cairnctl obj write bank/alice --hex 0700000000000000
v2=$(ask .data.version obj stat bank/alice)
expect 0 cairnctl obj realloc bank/alice 5000
expect 0 cairnctl obj history bank/alice
has "$out" ' resize +5000'
has "$out" ' write +64 +8 bytes at 0'
has "$out" ' birth +64'
holds '[.data.changes[].kind] == ["resize", "write", "birth"]' obj history bank/alice
holds '[.data.ranges[] | [.offset, .length, .kind]] == [[0, 8, "write"], [8, 56, "birth"], [64, 4936, "resize"]]' \
    obj blame bank/alice
holds '[.data.changes[].kind] == ["resize"]' obj history bank/alice --limit 1
holds ".data.ranges[0].version == \"$v2\"" obj blame bank/alice
expect 3 cairnctl obj blame bank/nobody
expect 2 cairnctl obj blame
holds ".data.hex == \"fbffffffffffffff\" and .data.version == \"$v1\"" obj read "bank/$p" --len 8 --at "$v1"
holds '.data.hex == "0700000000000000"' obj read bank/alice --len 8 --at "$v2"
holds '.data.size == 64' obj stat bank/alice --at "$v2"
holds '.data.size == 5000' obj stat bank/alice
holds '.data.size == 5000' obj stat bank/alice --at @now
expect 0 cairnctl obj show "bank/$p" --at "$v1"
has "$out" '^balance +i64 +0 -5'
expect 3 cairnctl obj read bank/alice --at 65536
expect 3 cairnctl obj read "bank/$p" --at "$((v1 - 1))"
expect 3 cairnctl obj read bank/alice --at "$v1" # its name came later
has "$err" 'by its pointer'
expect 2 cairnctl obj read bank/alice --at @2099-01-01T00:00:00Z
expect 2 cairnctl obj read bank/alice --at yesterday
cluster_kill 1
eventually 20 cairnctl obj write bank/alice --hex 0800000000000000 --timeout 5
holds '.data.hex == "fbffffffffffffff"' obj read "bank/$p" --len 8 --at "$v1"
cluster_start 1
cluster_wait 60
expect 0 cairnctl obj free bank/alice --yes
expect 10 cairnctl obj read "bank/$p"
holds '.data.hex == "0700000000000000"' obj read "bank/$p" --len 8 --at "$v2"
holds '.data.changes[0].kind == "free"' obj history "bank/$p"
expect 0 cairnctl root rm bank alice

step "history goes when it is no longer wanted"
expect 0 cairnctl heap set bank retention=0
eventually 30 bash -c 'cairnctl heap get bank -o json | jq -e ".data.history_bytes == 0"'
expect 3 cairnctl obj read "bank/$p" --at "$v2"

step "fill, and free most of it"
for i in $(seq 1 48); do
    expect 0 cairnctl obj alloc bank --type 7 --size 300000
    objects[i]=$out
done
kept=0
for i in $(seq 1 48); do
    if ((i % 8 < 2)); then
        kept=$((kept + 1))
        expect 0 cairnctl obj write "bank/${objects[i]}" --data "object-$i"
    else
        expect 0 cairnctl obj free "bank/${objects[i]}" --yes
    fi
done
expect 0 cairnctl heap stats bank
has "$out" '^SHARD +LEADER .* EXTERNAL +METADATA'
holds '.data.objects > 8 and (.data.shards[0].external_permille | type == "number")' heap stats bank
expect 0 cairnctl heap stats bank --by class
has "$out" '^extents '
expect 0 cairnctl heap stats bank --by type
has "$out" "^ +7 \(not registered\) +$kept "
expect 2 cairnctl heap stats bank --by colour

step "checkpoint now"
expect 0 cairnctl checkpoint now bank
has "$out" '^SHARD +INDEX IN HEAP +NODE'
holds '(.data.replicas | length) == 6 and .data.failed == 0' checkpoint now bank
holds '(.data.replicas | length) == 9 and all(.data.replicas[]; .pages_total > 0)' checkpoint now
expect 3 cairnctl checkpoint now nosuch

step "map and check"
expect 0 cairnctl heap map bank
has "$out" '^shard 0 '
holds '(.data.shards | length) == 2 and (.data.shards[0].cells | length) == 512' heap map bank
expect 0 cairnctl heap check bank
# Each object counts once, not once a replica.
objects_in_all=$(cairnctl heap stats bank -o json | jq .data.objects)
has "$out" "6 images checked, $objects_in_all objects: 0 damaged, 0 dangling"
# A shard can tell of its own objects alone: of these names at least one lies with the object that it points at.
for i in 3 4 5 6; do
    expect 0 cairnctl root set bank "nowhere$i" "${objects[i]}"
    expect 0 cairnctl root set bank "lost$i" "${objects[i]}"
done
expect 5 cairnctl heap check bank
has "$out" ' dangling +'
holds_5=$(cairnctl heap check bank -o json | jq -r '[.data.findings[] | select(.severity == "dangling")] | length') || true
[ "$holds_5" -ge 3 ] || fail "$holds_5 dangling roots on three replicas"
for i in 3 4 5 6; do
    expect 0 cairnctl root rm bank "nowhere$i"
    expect 0 cairnctl root rm bank "lost$i"
done

step "defrag and shrink, with a node killed in between"
before=$(ask '[.data.shards[].arena_bytes] | add' heap stats bank)
expect 0 cairnctl heap defrag bank
has "$out" '^SHARD +MOVED'
cluster_kill 2
eventually 20 cairnctl obj alloc bank --size 10 --timeout 5
cluster_start 2
cluster_wait 60
expect 0 cairnctl heap shrink bank
has "$out" '^SHARD +GIVEN BACK'
after=$(ask '[.data.shards[].arena_bytes] | add' heap stats bank)
[ "$after" -lt "$before" ] || fail "the arena has $after bytes after shrinking from $before"
for i in $(seq 1 48); do
    if ((i % 8 < 2)); then
        expect 0 cairnctl obj read "bank/${objects[i]}" --len "$((7 + ${#i}))" --file -
        [ "$out" = "object-$i" ] || fail "object $i holds $out"
    fi
done
expect 0 cairnctl replica check bank --timeout 30
expect 0 cairnctl heap check bank

step "an object of 8 MiB grows and shrinks"
head -c $((8 << 20)) /dev/urandom >"$dir/large"
expect 0 cairnctl obj alloc bank --file "$dir/large"
large=$out
expect 0 cairnctl obj realloc "bank/$large" $((9 << 20))
expect 0 cairnctl obj read "bank/$large" --len $((8 << 20)) --file "$dir/back"
cmp "$dir/large" "$dir/back"
expect 0 cairnctl obj realloc "bank/$large" 1000
expect 0 cairnctl obj read "bank/$large" --file "$dir/back"
cmp <(head -c 1000 "$dir/large") "$dir/back"

step "a node that is looked at stops all the same"
while sleep 0.05; do cairnctl heap check bank --timeout 5 || true; done >/dev/null 2>&1 &
looker=$!
for n in 1 2; do
    cluster_term $n
    cluster_start $n
    cluster_wait 60
done
kill $looker
wait $looker 2>/dev/null || true

step "offline"
expect 2 cairnctl --offline "$dir/nosuch" heap stats bank --by colour
expect 3 cairnctl --offline "$dir/nosuch" heap check
expect 1 cairnctl --offline "$dir/n3" heap check
has "$err" 'in use'
expect 0 cairnctl checkpoint now
cluster_term 3
expect 0 cairnctl --offline "$dir/n3" heap check bank
has "$out" '2 images checked'
expect 0 cairnctl --offline "$dir/n3" heap check
has "$out" '3 images checked'
expect 0 cairnctl --offline "$dir/n3" heap stats bank
has "$out" '^heap bank: [0-9]+ objects'
expect 0 cairnctl --offline "$dir/n3" heap stats bank --by type
expect 0 cairnctl --offline "$dir/n3" heap map bank
expect 3 cairnctl --offline "$dir/n3" heap check nosuch
page=$(find "$dir/n3/shards" -name 'pages-*' -size +40k | sort | tail -n 1)
printf '\xff\xff\xff' | dd of="$page" bs=1 seek=$((3 * 4096 + 100)) conv=notrunc status=none
expect 9 cairnctl --offline "$dir/n3" heap check
has "$out" 'damage'

step "two of three agree"
expect 5 cairnctl replica check bank --timeout 2
expect 5 cairnctl heap check bank

step "without history, what hasn't changed is known as of now"
expect 0 cairnctl heap create plain --shards 1 --size 64M
expect 0 cairnctl obj alloc plain --data old
expect 0 cairnctl root set plain old "$out"
sleep 0.1
holds '.data.hex == "6f6c64"' obj read plain/old --at @now
expect 0 cairnctl obj write plain/old --data new
expect 3 cairnctl obj read plain/old --at "-1h"
has "$err" 'SNAPSHOT_TOO_OLD'
