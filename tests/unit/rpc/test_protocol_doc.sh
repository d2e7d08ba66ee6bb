#!/usr/bin/env bash
# The committed docs/protocol.md is what the message table says today.
set -euo pipefail
if ! diff -u "$2/protocol.md" <("$1" <"$2/protocol.in.md"); then
    echo "docs/protocol.md is out of date: build the target protocol_doc_update" >&2
    exit 1
fi
