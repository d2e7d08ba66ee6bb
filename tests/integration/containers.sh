#!/usr/bin/env bash
# The persistent list, hash map and B-tree on a cluster: beside a model, by several threads, and with writers and nodes that
# are killed again and again.
build=$1
# shellcheck source=tests/integration/lib.sh
source "$(dirname "$0")/lib.sh"
it_cluster containers ex5_queue ex6_index ex7_lookup

step "one thread beside a model"
expect 0 containers model - 1200 "$RANDOM"
has "$out" 'all as the model has it'
step "four threads"
expect 0 containers threads - 150 "$RANDOM"
has "$out" 'as it must be'
for root in list hash tree; do expect 0 cairnctl root rm containers "$root" --yes; done

step "two writers at once, killed in each round; a node is killed too"
for round in 1 2 3 4 5 6; do
    pids=()
    for w in 0 1; do
        containers writer - $w >"$dir/written.$w.$round" 2>"$dir/writer.$w.log" &
        pids+=($!)
    done
    sleep 0.$((RANDOM % 8 + 2))
    cluster_kill $((round % 3 + 1))
    sleep 1.$((RANDOM % 9))
    kill -9 "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
    cluster_start $((round % 3 + 1))
    cluster_wait 60
    expect 0 containers verify - "$dir"/written.*
    has "$out" '^[1-9][0-9]* acknowledged changes, none lost$'
done
step "$out"
step "all nodes at once"
for n in 1 2 3; do cluster_kill $n; done
cluster_start
cluster_wait 60
expect 0 containers verify - "$dir"/written.*
expect 0 cairnctl replica check --timeout 30

step "the tutorial examples, twice"
for run in 1 2; do
    expect 0 ex5_queue
    has "$out" '^took .* jobs$'
    expect 0 ex6_index
    has "$out" '^in order: '
    expect 0 ex7_lookup
    has "$out" "^seen $run times?: "
done
