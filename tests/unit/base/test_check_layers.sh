#!/usr/bin/env bash
# scripts/check-layers: each kind of breach is found in a small tree made for it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/scripts"
cp scripts/check-layers "$work/scripts/"

tree() { # a clean tree of three folders
    rm -rf "$work"/{base,wal,alloc,replica,cli}
    mkdir "$work"/{base,wal,alloc,replica,cli}
    echo 'cairn_module(base SOURCES a.c LIBS Threads::Threads)' >"$work/base/CMakeLists.txt"
    echo 'cairn_module(wal SOURCES a.c DEPS base)' >"$work/wal/CMakeLists.txt"
    echo 'cairn_module(alloc SOURCES a.c DEPS base)' >"$work/alloc/CMakeLists.txt"
    echo 'cairn_module(replica SOURCES a.c DEPS wal alloc LIBS PkgConfig::RAFT)' >"$work/replica/CMakeLists.txt"
    echo '#include "base/a.h"' >"$work/base/a.c"
    printf '#include "wal/a.h"\n#include <uv.h>\n#include "base/a.h"\n' >"$work/wal/a.c"
    echo '#include "base/a.h"' >"$work/alloc/a.c"
    printf '#include "alloc/a.h"\n#include "base/a.h"\n' >"$work/replica/a.c"
    echo '#include <raft.h>' >"$work/replica/consensus.c"
}

expect() { # message; the breach is in the tree
    if "$work/scripts/check-layers" >"$work/out" 2>&1; then
        echo "FAILED: not found: $1" >&2
        exit 1
    fi
    if ! grep -qF -- "$1" "$work/out"; then
        echo "FAILED: expected \"$1\", got:" >&2
        cat "$work/out" >&2
        exit 1
    fi
}

tree
"$work/scripts/check-layers" >/dev/null
tree
echo '#include "wal/a.h"' >>"$work/base/a.c"
expect "base/a.c:2: base includes wal/a.h, but doesn't depend on wal"
tree
echo '#include "wal/a.h"' >>"$work/alloc/a.c"
expect "alloc/a.c:2: alloc includes wal/a.h"
tree
echo 'cairn_module(base SOURCES a.c DEPS wal)' >"$work/base/CMakeLists.txt"
expect "base must not depend on wal"
expect "base depends on itself"
tree
echo '#include "wal/internal.h"' >>"$work/replica/a.c"
expect "wal/internal.h is internal to wal"
tree
echo '#include <raft.h>' >>"$work/replica/a.c"
expect "<raft.h> belongs behind replica/consensus"
tree
echo '#include "a.h"' >>"$work/wal/a.c"
expect 'include "a.h" by its path from the root'
tree
echo '#include "tests/support/dir.h"' >>"$work/wal/a.c"
expect "product code includes tests/support/dir.h"
tree
echo '#include "wal/a.h"' >"$work/cli/a.c"
expect "cli includes wal/a.h"
echo ok
