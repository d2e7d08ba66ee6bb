#!/usr/bin/env bash
# The persistent list, hash map and B-tree on a directory: beside a model, by several threads, and with a writer that is killed
# at random moments, in disk mode and, where there is shared memory, in pmem mode; then the offline check. The tutorial
# examples run on a directory, too.
set -euo pipefail
build=$1
rounds=${2:-30}
dir=$(mktemp -d)
pid=
shm=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; rm -rf "$dir" ${shm:+"$shm"}' EXIT

containers() { "$build/tests/containers/containers" "$@"; }

run() { # what a directory has to stand; its URL's query follows it
    local at=$1 url=file://$1$2 round
    echo "== $url: one thread beside a model"
    containers model "$url" 3000 "$RANDOM"
    echo "== four threads"
    rm -rf "$at"
    containers threads "$url" 400 "$RANDOM"
    rm -rf "$at"
    echo "== a writer, killed $rounds times"
    for ((round = 1; round <= rounds; round++)); do
        "$build/tests/containers/containers" writer "$url" $((round % 2)) >"$dir/written.$round" 2>"$dir/writer.log" &
        pid=$!
        sleep "0.$(printf '%03d' $((RANDOM % 350)))"
        if ! kill -9 "$pid"; then
            cat "$dir/writer.log" >&2
            exit 1
        fi
        wait "$pid" 2>/dev/null || true
        pid=
        containers verify "$url" "$dir"/written.* >"$dir/verified"
    done
    cat "$dir/verified"
    grep -qE '^[1-9][0-9]* acknowledged changes, none lost$' "$dir/verified"
    rm -f "$dir"/written.*
    echo "== the heap's structures"
    "$build/cli/cairnctl" --offline "$at" heap check
}

run "$dir/disk" '?mode=disk'
if [ -d /dev/shm ]; then
    shm=$(mktemp -d /dev/shm/cairn-containers.XXXXXX)
    PMEM_IS_PMEM_FORCE=1 run "$shm/pmem" '?mode=pmem'
fi

echo "== the tutorial examples, twice"
examples=$dir/examples
for round in 1 2; do
    for example in "ex4_embedded $examples" "ex5_queue file://$examples" "ex6_index file://$examples" "ex7_lookup file://$examples"; do
        read -r name where <<<"$example"
        echo "-- $name, run $round"
        "$build/client/$name" "$where" >"$dir/out"
        cat "$dir/out"
        [ -s "$dir/out" ]
    done
done
grep -q '^seen 2 times' "$dir/out"
