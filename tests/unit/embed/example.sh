#!/usr/bin/env bash
# The example of the embedded mode, run as its comment says: what one run wrote, the next one finds.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
example=$CAIRN_BUILD_DIR/client/ex4_embedded
[ "$("$example" "$dir/notes" first)" = first ]
[ "$("$example" "$dir/notes" second | tr '\n' ' ')" = 'second first ' ]
[ "$("$example" "$dir/notes" | tr '\n' ' ')" = 'hello second first ' ]
if "$example" "$dir/none/such" 2>/dev/null; then
    echo "a directory that can't be made was opened" >&2
    exit 1
fi
