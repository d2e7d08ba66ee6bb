#!/usr/bin/env bash
# Graphs over the eight shards of a heap on a cluster: beside the test's own walk, while a node is down, and on the command line.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster graph

step "beside a walk of the test's own"
expect 0 graph - 400 "$RANDOM"
has "$out" '^400 objects, graphs as expected$'

step "with a node down it is the same"
expect 0 cairnctl graph fetch graph/start -o json
jq -S '.data.objects | map(.pointer) | sort' <<<"$out" >"$dir/all"
cluster_kill 2
expect 0 cairnctl graph fetch graph/start -o json
jq -S '.data.objects | map(.pointer) | sort' <<<"$out" >"$dir/again"
cmp "$dir/all" "$dir/again" || fail "another graph with a node down"
cluster_start 2
cluster_wait 60

step "on the command line"
expect 0 cairnctl heap create tree --shards 3 --retention 10m
expect 0 cairnctl type register tree pair value:u64 left:ptr right:ptr --type 7
for name in a b c d; do
    expect 0 cairnctl obj alloc tree --size 24 --type 7
    printf -v "$name" %s "$out"
    expect 0 cairnctl ptr decode "$out" -o json
    printf -v "${name}_word" %s "$(jq -r .data.word <<<"$out")"
done
hex() { # words in little-endian
    local w
    for w in "$@"; do le 8 "$w"; done | od -An -tx1 -v | tr -d ' \n'
}
# a -> b, c; b -> d; c -> d; d -> a, and to nowhere
# shellcheck disable=SC2154 # set by printf -v
link() {
    expect 0 cairnctl obj write "tree/$a" --hex "$(hex 1 "$b_word" "$c_word")"
    expect 0 cairnctl obj write "tree/$b" --hex "$(hex 2 "$d_word" 0)"
    expect 0 cairnctl obj write "tree/$c" --hex "$(hex 3 0 "$d_word")"
    expect 0 cairnctl obj write "tree/$d" --hex "$(hex 4 "$a_word" 0)"
}
link
expect 0 cairnctl root set tree top "$a"
pointers() { jq -r '.data.objects[].pointer' <<<"$out" | sort | tr '\n' ' '; }
sorted() { printf '%s\n' "$@" | sort | tr '\n' ' '; }
# shellcheck disable=SC2154
{
    expect 0 cairnctl graph fetch tree/top -o json
    [ "$(pointers)" = "$(sorted "$a" "$b" "$c" "$d")" ] || fail "not all of the graph: $out"
    [ "$(jq -r '.data.objects[0].pointer' <<<"$out")" = "$a" ] || fail "the start isn't first"
    [ "$(jq -r '.data.objects[3].depth' <<<"$out")" = 2 ] || fail "depth: $out"
    [ "$(jq -r '.data.partial' <<<"$out")" = false ] || fail "partial: $out"
    expect 0 cairnctl graph fetch "tree/$a" --depth 1 -o json
    [ "$(pointers)" = "$(sorted "$a" "$b" "$c")" ] || fail "depth 1: $out"
    expect 2 cairnctl graph fetch tree/top --path right.rihgt
    has "$err" "the path names the field 'rihgt'"
    expect 0 cairnctl graph fetch tree/top --path right.right -o json
    [ "$(pointers)" = "$(sorted "$a" "$c" "$d")" ] || fail "path: $out"
    expect 0 cairnctl graph fetch tree/top --size 30 -o json
    [ "$(jq -r '.data.partial' <<<"$out")" = true ] || fail "30 bytes are not partial: $out"
    [ "$(jq -r '.warnings | length' <<<"$out")" = 1 ] || fail "no warning: $out"

    step "dot"
    expect 0 cairnctl graph fetch tree/top -o dot
    [ "$(grep -c -- '->' <<<"$out")" = 5 ] || fail "edges: $out"
    has "$out" "\"$a\" -> \"$b\" \\[label=\"left\"\\];"
    has "$out" "\"$a\" \\[label=\"pair $a\"\\];"
    expect 0 cairnctl graph fetch tree/top --depth 1 -o dot
    has "$out" "\"$c\" -> \"$d\" \\[label=\"right\", style=dashed\\];"
    expect 0 cairnctl graph fetch tree/top
    has "$out" 'DEPTH +POINTER +TYPE'

    step "as it was"
    expect 0 cairnctl obj stat "tree/$d" -o json
    then=$(jq -r .data.version <<<"$out")
    expect 0 cairnctl obj write "tree/$a" --off 8 --hex "$(hex 0 0)"
    expect 0 cairnctl graph fetch tree/top -o json
    [ "$(pointers)" = "$(sorted "$a")" ] || fail "now: $out"
    expect 0 cairnctl graph fetch "tree/$a" --at "$then" -o json
    [ "$(pointers)" = "$(sorted "$a" "$b" "$c" "$d")" ] || fail "then: $out"

    step "what is refused"
    expect 2 cairnctl graph fetch tree/top --path left..right
    expect 2 cairnctl heap ls -o dot
    expect 3 cairnctl graph fetch tree/nothing
    expect 0 cairnctl obj free "tree/$d" --yes
    expect 10 cairnctl graph fetch "tree/$d"
}
