#!/usr/bin/env bash
# The example of the embedded mode, run as its comment says: what one run wrote, the next one finds. And the one of watches, on a
# directory.
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
for _ in 1 2; do
    "$CAIRN_BUILD_DIR/client/ex11_watch" "file://$dir/ticker" >"$dir/heard"
    grep '^price [0-9]' "$dir/heard" | cmp - <(for i in $(seq 0 9); do echo "price $i -> $((i + 1))"; done)
    [ "$(tail -n 2 "$dir/heard" | tr '\n' ' ')" = 'price-of-the-day set price-of-the-day deleted ' ]
done
