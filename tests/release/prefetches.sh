#!/usr/bin/env bash
# Do the linked programs ask the caches for memory where the source does? To a compiler a function that only asks is without
# effect: where it sees that, it drops the calls (base/mem.h, lines_ask()), and no other test can tell.
#
# usage: prefetches.sh SOURCE_DIR BUILD_TYPE CAIRND LIBCAIRN
#
# Every function that asks must be one of those that a prefetch instruction stems from, by the program's debug information,
# which knows of inlined ones, too.
set -euo pipefail
source=$1 build_type=$2 cairnd=$3 libcairn=$4

skip() {
    echo "skipped: $*"
    exit 77
}
[ "$build_type" = Release ] || skip "a build of type '$build_type', and only what is optimised and linked as a release counts"
command -v objdump >/dev/null || skip "no objdump here"
command -v addr2line >/dev/null || skip "no addr2line here"
case $(uname -m) in
x86_64) instruction='prefetch[a-z0-9]*' ;;
aarch64) instruction=prfm ;;
*) skip "what prefetch instructions are called on $(uname -m) isn't known here" ;;
esac

# Who asks, one line each: file and function. A function's own line begins in the first column.
who_asks() { # folders...
    local folder
    for folder in "$@"; do
        (cd "$source" && find "$folder" -name '*.[ch]')
    done | sort | while IFS= read -r file; do
        awk -v file="$file" '
            { gsub(/__attribute__\(\([^)]*\)\) */, "") }
            /^[a-z][^;]*\(/ && match($0, /[A-Za-z0-9_]+\(/) { name = substr($0, RSTART, RLENGTH - 1) }
            /^[ \t].*(__builtin_prefetch|lines_prefetch)\(/ { print file, name }' "$source/$file"
    done | sort -u
}

# Whom the program's prefetch instructions stem from.
who_has() { # program
    objdump -d --no-show-raw-insn "$1" | sed -nE "s/^ *([0-9a-f]+):[[:space:]]+${instruction}[[:space:]].*/\1/p" |
        addr2line -f -i -e "$1" | sed -nE 'N; s/^([A-Za-z0-9_]+)[^\n]*\n.*\/([a-z]+\/[a-z0-9_]+\.[ch]):[0-9?]+.*/\2 \1/p' | sort -u
}

failed=0
look() { # program, functions that nobody calls there (a regular expression), folders...
    local program=$1 elsewhere=$2 asks has lost
    shift 2
    asks=$(who_asks "$@" | grep -vE " ($elsewhere)\$")
    has=$(who_has "$program")
    [ -n "$asks" ] || { echo "found nobody who asks in $*: this script doesn't read the source any more" && exit 1; }
    if [ -z "$has" ]; then
        objdump -h "$program" | grep -q '\.debug_info' || skip "$program is without debug information"
    fi
    lost=$(comm -23 <(echo "$asks") <(echo "$has"))
    if [ -n "$lost" ]; then
        echo "$program: these don't prefetch anything there (is lines_ask() missing?):"
        sed 's/^/    /' <<<"$lost"
        failed=1
    fi
    echo "$program: $(comm -12 <(echo "$asks") <(echo "$has") | wc -l) of $(wc -l <<<"$asks") functions prefetch"
}
look "$cairnd" none base rpc wal alloc replica coord node
# An embedded heap's entries are known before they are read, and its log has one writer.
look "$libcairn" 'heap_ahead|heap_object_ahead|heap_map_ahead|wal_[a-z]+_ahead' base wal alloc embed client
exit $failed
