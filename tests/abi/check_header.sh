#!/bin/sh
# check_header.sh INCLUDE CC CXX: the public headers stand alone in each language that they promise.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/user.c" <<'END'
#include <cairn/btree.h>
#include <cairn/cairn.h>
#include <cairn/cairn.h>
#include <cairn/hash.h>
#include <cairn/list.h>
int main(void)
{
    cairn_ptr ptr = CAIRN_NULL;
    return cairn_ptr_is_null(ptr) && cairn_ptr_equals(ptr, CAIRN_NULL) ? 0 : 1;
}
END
cp "$dir/user.c" "$dir/user.cc"
strict="-pedantic -pedantic-errors -Wall -Wextra -Wconversion -Wshadow -Werror -fsyntax-only"
for std in c11 c17; do
    # shellcheck disable=SC2086
    "$2" -std=$std $strict -I"$1" "$dir/user.c"
done
for std in c++17 c++20; do
    # shellcheck disable=SC2086
    "$3" -std=$std $strict -I"$1" "$dir/user.cc"
done
