#!/usr/bin/env bash
# cairnctl: every verb as a table and as JSON, and what each kind of failure exits with (docs/cli.md).
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster

# The envelope of docs/cli.md around an answer, on which the filter must hold.
json() { # rc filter arguments...
    local rc=$1 filter=$2
    shift 2
    expect "$rc" cairnctl "$@" -o json
    jq -e '.apiVersion == "cairn/v1" and (.kind | type == "string") and has("data") and (.warnings | type == "array")
        and has("error")' >/dev/null <<<"$out" || fail "$*: not the envelope: $out"
    if [ "$rc" = 0 ]; then
        jq -e '.error == null' >/dev/null <<<"$out" || fail "$*: an error although it succeeded: $out"
    elif [ "$rc" != 5 ]; then
        jq -e '.data == null and (.error.code | startswith("CAIRN_E_")) and (.error.message | length > 0)' \
            >/dev/null <<<"$out" || fail "$*: no error in: $out"
    fi
    jq -e "$filter" >/dev/null <<<"$out" || fail "$*: $filter does not hold: $out"
}

step "status, nodes"
expect 0 cairnctl status
has "$out" 'HEALTHY +3/3 nodes'
has "$out" '^NODE +ADDRESS'
json 0 '.kind == "status" and .data.state == "HEALTHY" and (.data.nodes | length) == 3 and .data.alarms == 0' status
expect 0 cairnctl status --wait healthy --timeout 5s
expect 0 cairnctl node ls
json 0 '[.data.nodes[] | select(.reachable)] | length == 3' node ls
expect 0 cairnctl node storage
json 0 '.data.nodes[0].has_room and .data.nodes[0].storage == "disk"' node storage

step "heaps"
expect 0 cairnctl heap create bank --shards 2 --size 64M
has "$out" 'heap bank created: 2 shards'
json 0 '.data.name == "other" and .data.shards == 1' heap create other --shards 1 --size 16M
cluster_wait 60
expect 4 cairnctl heap create bank
json 4 '.error.code == "CAIRN_E_EXISTS"' heap create bank
has "$err" 'heap bank exists already'
json 2 '.error.code == "CAIRN_E_INVAL"' heap create 'No Such Name'
json 2 '.error.message | test("--shards: at least one")' heap create none --shards 0
json 2 '.error.message | test("--replicas: at least one")' heap create none --replicas 0
json 2 '.error.message | test("4 replicas of each shard need as many nodes, and the cluster has fewer")' \
    heap create none --replicas 4
json 2 '.error.message | test("shards of 25600 bytes each, but a shard has from 1048576 to 1099511627776")' \
    heap create none --size 100K
json 2 '.error.message | test("heap create bank: a heap has 1..256 shards, not 257")' heap create bank --shards 257
for verb in 'obj alloc nosuch --size 1' 'root ls nosuch' 'type ls nosuch' 'watch nosuch' 'heap rm nosuch --yes' \
    'obj stat nosuch/x' 'heap set nosuch retention=1m'; do
    # shellcheck disable=SC2086 # words
    json 3 '.error.message == "heap nosuch does not exist; `cairnctl heap ls` lists those that do"' $verb
done
expect 0 cairnctl heap ls
has "$out" '^bank .* 2 '
json 0 '[.data.heaps[].name] | sort == ["bank", "other"]' heap ls
expect 0 cairnctl heap stats bank
json 0 '.data.objects == 0 and (.data.shards | length) == 2' heap stats bank
json 3 '.error.code == "CAIRN_E_NOTFOUND"' heap stats nosuch

step "objects, roots, pointers"
expect 0 cairnctl obj alloc bank --data hello --type 7
p=$out
has "$p" '^[0-9]+\.[0-9]+\.[0-9a-f]{10}$'
json 0 '.data.size == 4 and (.data.pointer | test("^[0-9]+\\.[0-9]+\\.[0-9a-f]{10}$"))' obj alloc bank --hex 00ff10AB
q=$(jq -r .data.pointer <<<"$out")
expect 0 cairnctl root set bank alice "$p"
json 0 '.data.name == "bob"' root set bank bob "$q"
expect 0 cairnctl root get bank alice
[ "$out" = "$p" ] || fail "root get printed $out instead of $p"
json 0 ".data.pointer == \"$p\"" root get bank alice
expect 0 cairnctl root ls bank
has "$out" "^alice +$p"
json 0 '[.data.roots[].name] == ["alice", "bob"] and (.data.roots[0].version | type == "string")' root ls bank
expect 0 cairnctl obj read bank/alice
has "$out" '68 65 6c 6c 6f +hello$'
json 0 '.data.hex == "00ff10ab" and .data.length == 4' obj read "bank/$q"
json 0 '.data.hex == "ff10"' obj read bank/bob --off 1 --len 2
expect 0 cairnctl obj write bank/alice --off 1 --data E
expect 0 cairnctl obj read bank/alice --file -
[ "$out" = hEllo ] || fail "read back $out"
json 0 '.data.length == 2' obj write bank/alice --hex 4142
json 0 '.data.size == 5 and .data.type == 7' obj stat bank/alice
expect 0 cairnctl obj stat bank/alice
has "$out" "pointer $p +size 5 +type 7 +version [0-9]+"
expect 0 cairnctl ptr decode "$p"
has "$out" "^pointer $p +word 0x[0-9a-f]{16} +shard [0-9]+ +generation 1 "
word=$(cairnctl ptr decode "$p" -o json | jq -r .data.word)
json 0 ".data.pointer == \"$p\" and (.data.null | not)" ptr decode "$word"
json 2 '.error.code == "CAIRN_E_INVAL"' ptr decode nonsense
json 2 '.error.code == "CAIRN_E_RANGE"' obj read bank/alice --off 9
json 2 '.error.code == "CAIRN_E_RANGE"' obj write bank/alice --off 5 --data x
json 3 '.error.code == "CAIRN_E_NOTFOUND"' obj read bank/carol
json 3 '.error.code == "CAIRN_E_NOTFOUND"' root get bank carol
json 3 '.error.code == "CAIRN_E_NOTFOUND"' root ls nosuch
json 2 '.error.message | test("even number of hex digits")' obj alloc bank --hex abc
json 2 '.error.message | test("one of --data, --hex and --file")' obj alloc bank --hex ab --data x

step "what destroys asks first"
expect 1 cairnctl obj free bank/bob
has "$err" 'Give --yes'
json 0 '.data.freed == false' obj free bank/bob --dry-run
expect 0 cairnctl obj stat bank/bob
expect 0 cairnctl obj free bank/bob --yes
json 10 '.error.code == "CAIRN_E_STALE"' obj read "bank/$q"
json 10 '.error.code == "CAIRN_E_STALE"' obj free "bank/$q" --yes
json 10 '.error.code == "CAIRN_E_STALE"' obj blame "bank/$q"
expect 10 cairnctl obj write bank/bob --data x
expect 0 cairnctl root rm bank bob --dry-run
expect 0 cairnctl root rm bank bob
expect 3 cairnctl root rm bank bob
expect 1 cairnctl heap rm other
expect 0 cairnctl heap rm other --dry-run
json 0 '[.data.heaps[].name] == ["bank", "other"]' heap ls
json 0 '.data.removed' heap rm other --yes
json 3 '.error.code == "CAIRN_E_NOTFOUND"' heap rm other --yes

step "files of transactions: others' files aren't removed, and one that stays is named"
echo precious >"$dir/precious"
json 2 '.error.message | test("is not a transaction")' tx abort "$dir/precious"
json 2 '.error.message | test("is not a transaction")' tx abort "$dir"
[ "$(cat "$dir/precious")" = precious ] || fail "tx abort took a file that is none of its own"
for verb in "read" commit abort; do
    # shellcheck disable=SC2046 # a word for read alone
    json 3 '.error.message | test("there is no ")' tx $verb "$dir/nosuch" $([ $verb = "read" ] && echo alice)
done
expect 0 cairnctl tx begin bank "$dir/stays"
expect 0 cairnctl tx write "$dir/stays" alice --data H
exec 7<"$dir/stays"
json 0 '.warnings[0] | test("can.t be removed.*commit it again")' tx commit /dev/fd/7
exec 7<&-
expect 0 cairnctl tx abort "$dir/stays"

step "space runs out: 8"
expect 0 cairnctl heap create small --shards 1 --size 1M
cluster_wait 60
json 8 '.error.code == "CAIRN_E_NOSPACE"' obj alloc small --size 8M

step "types: numbers are taken as they are, or not at all"
expect 0 cairnctl type register bank plain 'a:u8' 'b:i64*3'
number=$(cairnctl type show bank plain -o json | jq .data.number)
json 0 ".data.type == $number" obj alloc bank --type plain --size 32
json 3 '.error.message | test("type nosuch is not registered in heap bank")' obj alloc bank --type nosuch --size 32
json 2 '.error.message | test("the number of the new type")' type register bank t1 a:i64 --type plain
json 2 '.error.message | test("field x: .4294967297. must be a whole number")' type register bank t1 'x:i64*4294967297'
json 2 '.error.message | test("field x: .2abc. must be")' type register bank t1 'x:i64*2abc'
json 2 '.error.message | test("field x: .-1. must be")' type register bank t1 'x:i64@-1'
json 2 '.error.message | test("field a is there twice")' type register bank t1 a:i64 a:i64
json 2 '.error.message | test("the fields end at 8")' type register bank t1 a:i64 --size 4
json 2 '.error.message | test("the fields end at 8")' type register bank t1 a:i64 --size 8G
json 2 '.error.code == "CAIRN_E_INVAL"' ptr decode 99999999999999999999
json 2 '.error.message | test("can.t be read")' obj alloc bank --file "$dir"

step "names that aren't UTF-8"
r=$'r\xff'
json 0 '.data.name == "r\\xff"' root set bank "$r" "$p"
json 0 '[.data.roots[].name] | index("r\\xff") != null' root ls bank
json 0 '.data.size == 5' obj stat "bank/$r"
json 0 '.data.name == "r\\xff"' root rm bank "$r"
json 3 '.error.message | test("r.xff: there is no root of that name; `cairnctl root ls")' root get bank "$r"
json 0 '.data.name == "t\\xff"' type register bank $'t\xff' a:i64
json 0 '[.data.types[].name] | index("t\\xff") != null' type ls bank
json 2 '.error.message | test("xff: a heap.s name is")' obj stat $'\xff/a'

q=$(cairnctl obj alloc small --data x)
expect 0 cairnctl root set small $'d\xff' "$q"
expect 0 cairnctl obj free "small/$q" --yes
json 5 '.data.dangling == 3 and (.data.findings | length == 3 and all(.text | test("^root .d.. points at")))' heap check small
json 2 '.error.message | test("more than a second in the future")' obj stat bank/alice --at @2099-01-01T00:00:00Z

step "where the bytes go"
json 0 '.data.length == 5 and .data.file != null' obj read bank/alice --file "$dir/bytes"
[ "$(wc -c <"$dir/bytes")" = 5 ] || fail "obj read --file wrote $(wc -c <"$dir/bytes") bytes"
json 2 '.error.message | test("give one of")' obj read bank/alice --file -
rc=0
cairnctl heap ls >/dev/full 2>/dev/null || rc=$?
[ "$rc" = 1 ] || fail "an answer that can't be written exits with $rc"
expect 0 cairnctl heap create watched --shards 1 --size 16M --retention 1m
rc=0
timeout 20 cairnctl watch watched >/dev/full 2>/dev/null || rc=$?
[ "$rc" = 1 ] || fail "a watch that can't be written exits with $rc"
json 2 '.error.message | test("alice: there are no bytes to write")' obj write bank/alice --data ''
json 2 '.error.message | test("nosuch can.t be read: No such file")' obj write bank/alice --file "$dir/nosuch"

step "closed standard streams are no place for connections"
rc=0
cairnctl heap ls >&- 2>"$dir/err" || rc=$?
[ "$rc" = 1 ] && grep -q "standard output can't be written" "$dir/err" || fail "without stdout: $rc"
cairnctl heap ls >"$dir/out" 2>&- <&-
grep -q '^bank ' "$dir/out" || fail "without stdin and stderr"

step "usage: 2, in JSON, too"
json 2 '.error.code == "CAIRN_E_INVAL"'
json 2 '.error.message | test("is not a verb")' bogus verb
json 2 '.error.message | test("heap\" is not a verb; those of heap: create, ls, rm")' heap
expect 2 cairnctl
has "$err" 'give a noun and a verb'
for verb in 'heap create' 'watch' 'obj read'; do
    # shellcheck disable=SC2086 # words
    expect 0 cairnctl $verb --help
    has "$out" "^Usage: cairnctl $verb HEAP|^Usage: cairnctl heap create NAME"
done
has "$out" '^  --off=N  '
json 2 '.error.message | test("an option is unknown")' status --bogus
json 2 '.error.message | test("--off: \"x\" must be a whole number")' obj read bank/alice --off x
json 2 '.error.message | test("^usage: cairnctl heap create NAME")' heap create
json 2 '.error.message | test("^usage: ")' root set bank onlyname
json 2 '.error.message | test("^usage: ")' log dump
expect 2 cairnctl -o yaml status
expect 0 cairnctl --help
has "$out" 'replica check'
has "$out" 'Exit codes: 0 ok'
expect 0 cairnctl version
json 0 '.data.version | test("^[0-9]+\\.[0-9]+\\.[0-9]+$")' version

step "shards and their replicas"
expect 0 cairnctl shard ls bank
led_by_the_first() {
    cairnctl status -o json | jq -e '.data.nodes | all(.answer | .leaders == "auto" and .gathered) and
        (map(select(.answer.leading >= 3)) | length == 1 and .[0].node == "n1")'
}
eventually 40 led_by_the_first
has "$out" 'leader'
json 0 '[.data.replicas[] | select(.state == "leader")] | length == 2' shard ls bank
json 3 '.error.code == "CAIRN_E_NOTFOUND"' shard ls nosuch
expect 0 cairnctl replica check --timeout 30
has "$out" 'all replicas equal'
json 0 '.data.different == 0 and .data.pending == 0' replica check bank --timeout 30

step "what a verb doesn't take isn't left out of account"
expect 2 cairnctl obj rollback bank/alice --at -1s --dry-run
has "$err" '--dry-run is none of its options: obj rollback'
expect 2 cairnctl heap ls --shards 5
expect 2 cairnctl heap stats bank --shard 16
for bad in +5 ' 5' 5x 99999999999999999999; do
    expect 2 cairnctl root ls bank --at "$bad"
    has "$err" 'neither a version nor a time'
done
expect 2 cairnctl heap ls --timeout 0
expect 0 cairnctl heap ls --timeout 20s
expect 2 cairnctl heap ls --timeout 20sec

step "names that steer terminals are shown, not obeyed"
p=$(cairnctl obj alloc bank --data x)
expect 0 cairnctl root set bank $'\e[31mred\x01' "$p"
expect 0 cairnctl root set bank $'\xff' "$p"
expect 0 cairnctl root ls bank
has "$out" '^\\x1b\[31mred\\x01 '
has "$out" '^\\xff '
expect 3 cairnctl root get bank $'\e[31mno'
has "$err" '\\x1b\[31mno: there is no root of that name; `cairnctl root ls HEAP`'
# Rows end where the others do, whatever the names are made of.
names=(plain $'\e[31mred\x01' $'\xff' $'a\nb' 'back\slash' $'\xc2\x9b31m' $'\xe2\x80\xaeltr' "$(printf '\xff%.0s' {1..200})")
for name in "${names[@]}"; do expect 0 cairnctl root set bank "$name" "$p"; done
LC_ALL=C.UTF-8 expect 0 cairnctl root ls bank
[ "$(awk '{print length}' <<<"$out" | sort -u | wc -l)" = 1 ] || fail "the columns don't stand: $out"
has "$out" '^\\xe2\\x80\\xaeltr '
has "$out" "^$(printf '\\\\xff%.0s' {1..200}) "
for name in "${names[@]}"; do expect 0 cairnctl root rm bank "$name"; done
expect 3 cairnctl root get bank $'no\xff'
has "$err" 'no\\xff: there is no root of that name'
json 0 '.data.file | test("f.xff$")' tx begin bank "$dir/f"$'\xff'
json 0 '.data.file | test("f.xff$")' tx abort "$dir/f"$'\xff'

step "types that can't be"
expect 2 cairnctl type register bank $'a\nb' n:i64
has "$err" 'without spaces and control characters'
expect 2 cairnctl type register bank t a:i64@0 b:i64@4
has "$err" 'fields overlap'
expect 2 cairnctl type register bank t 'a:ptr='
expect 0 cairnctl obj free "bank/$p" --yes

step "completion"
cairnctl completion bash >"$dir/completion"
bash -n "$dir/completion"
completed=$(bash -c 'source "$1"; COMP_WORDS=(cairnctl heap ""); COMP_CWORD=2; _cairnctl; echo "${COMPREPLY[*]}"' - "$dir/completion")
[ "$completed" = "create ls rm get set stats map check defrag shrink" ] || fail "completed heap with: $completed"
completed=$(bash -c 'source "$1"; COMP_WORDS=(cairnctl heap stats b); COMP_CWORD=3; _cairnctl; echo "${COMPREPLY[*]}"' - "$dir/completion")
[ "$completed" = bank ] || fail "completed the heap with: $completed"
expect 2 cairnctl completion fish

step "whom nobody knows: 6; nobody there: 7"
"$root/scripts/certs" "$dir/other" user eve >/dev/null
"$root/scripts/certs" --expired "$dir/certs" user late >/dev/null
json 6 '.error.code == "CAIRN_E_TLS"' heap ls --cert "$dir/other/eve.crt" --key "$dir/other/eve.key" --timeout 5
json 6 '.error.message | test("expired")' heap ls --cert "$dir/certs/late.crt" --key "$dir/certs/late.key" --timeout 5
# With their CA we would accept ourselves; the node does not.
json 6 '.error != null' heap ls --ca "$dir/other/ca.crt" --cert "$dir/other/eve.crt" --key "$dir/other/eve.key" --timeout 5
json 2 '.error.message | test("/nonexistent")' heap ls --cert /nonexistent
json 7 '.error.message | test("127.0.0.1:1")' heap ls -e 127.0.0.1:1 --timeout 2
CAIRN_ENDPOINTS='' expect 2 cairnctl heap ls

step "one node gone: degraded, 5; two gone: 5 or 7"
cluster_term 3
expect 5 cairnctl status
has "$out" 'DEGRADED +2/3 nodes'
json 5 '.data.state == "DEGRADED" and ([.data.nodes[] | select(.reachable | not) | .node] == ["n3"])' status
json 0 '[.data.nodes[] | select(.reachable | not)] | length == 1' node ls
expect 7 cairnctl status --wait healthy --timeout 2
eventually 20 cairnctl obj write bank/alice --data AB --timeout 5
json 5 '.warnings | length > 0' replica check bank --timeout 2
expect 5 cairnctl replica check bank --timeout 2 # it asks again and again
[ -z "$(sort <<<"$err" | uniq -d)" ] || fail "said more than once: $err"
# What n3 would know of transactions nobody says: nothing is over for that.
json 5 '.warnings[0] | test("node n3 can.t be reached")' tx ls
json 7 '.error.message | test("node n3 doesn.t answer")' tx show 16.1.1
json 7 '.error.message | test("node n3 doesn.t answer")' tx trace 16.1.1

step "the log of the stopped node"
expect 0 cairnctl --offline "$dir/n3" log dump
has "$out" 'entry +shard='
has "$out" 'HEAP_CREATE\{.*"bank"'
has "$err" '^[0-9]+ records$'
expect 0 cairnctl --offline "$dir/n3" log dump -o json
jq -es 'length > 10 and all(.[]; has("kind") and has("index") and has("term"))' >/dev/null <<<"$out" || fail "$out"
expect 0 cairnctl --offline "$dir/n3" log dump --shard 1 --from 2 --to 3
if grep -E 'shard=[^1 ]| index=[^23 ]' <<<"$out"; then fail "not only shard 1 and indexes 2 to 3"; fi
expect 3 cairnctl --offline "$dir/nosuch" log dump
json 3 '.error.message | test("no image of shard 99")' --offline "$dir/n3" heap check --shard 99
json 2 '.error.message | test("asks a cluster")' --offline "$dir/n3" heap rm bank --yes
# The longest name that a data directory can have, and one byte more: refused, and nothing else looked at.
deep=$dir/deep/$(printf 'd%.0s' {1..200})/$(printf 'd%.0s' {1..200})/$(printf 'd%.0s' {1..200})/
deep+=$(printf 'e%.0s' {1..200})/
deep+=$(head -c $((956 - ${#deep})) /dev/zero | tr '\0' f)
[ ${#deep} = 956 ] || fail "a name of ${#deep} bytes"
mkdir -p "$deep"
cp -r "$dir/n3/." "$deep"
expect 0 cairnctl --offline "$deep" log dump
has "$out" 'HEAP_CREATE\{.*"bank"'
expect 0 cairnctl --offline "$deep" heap stats
mv "$deep" "${deep}f"
json 2 '.error.message | test("at most 956 bytes, not 957")' --offline "${deep}f" log dump
json 2 '.error.message | test("at most 956 bytes, not 957")' --offline "${deep}f" heap stats
rm -r "$dir/deep"
expect 0 cairnctl heap get bank

step "no majority: 7"
cluster_kill 2
expect 7 cairnctl obj write bank/alice --data AB --timeout 3
for verb in get stats "stats --by class" "stats --by type" map; do
    # shellcheck disable=SC2086 # a verb and its options
    json 7 '.error.message | test("has a leader that answers")' heap ${verb%% *} bank ${verb#"${verb%% *}"} --timeout 3
done
cluster_start 2 3
cluster_wait 60
expect 0 cairnctl obj read bank/alice
expect 0 cairnctl replica check --timeout 30

# One after the other they would take twice as long as they may.
step "two nodes that are silent: a verb takes no longer than one"
kill -STOP "${cluster_pids[2]}" "${cluster_pids[3]}"
expect 5 timeout 7 cairnctl status --timeout 4
has "$out" ' 1/3 nodes'
expect 0 timeout 7 cairnctl node storage --timeout 4
has "$out" '^n1 +[a-z]'
expect 5 timeout 7 cairnctl replica check --timeout 4
expect 7 timeout 7 cairnctl tx show 16.1.1 --timeout 4
has "$err" "node n2 doesn.t answer"
expect 7 timeout 7 cairnctl status --wait healthy --timeout 4
kill -CONT "${cluster_pids[2]}" "${cluster_pids[3]}"
cluster_wait 60

step "a node without its catalogue isn't believed against those that have theirs"
cluster_term 3
for file in "$dir"/n3/shards/0000000000000001/*; do
    if [ -s "$file" ]; then dd if=/dev/zero of="$file" bs=1K count=8 conv=notrunc status=none; fi
done
cluster_start 3
eventually 20 grep -q 'a shard stopped serving here.* shard=1 ' "$dir/n3.log"
json 5 '.warnings | any(test("node n3 doesn.t know it"))' replica check bank --timeout 2
expect 0 cairnctl shard ls bank
expect 0 cairnctl heap stats bank
expect 3 cairnctl shard ls nosuch
