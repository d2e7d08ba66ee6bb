#!/bin/sh
# check_consumers.sh SOURCE BUILD CC SANITIZER-FLAG: installs under a prefix, moves that elsewhere, and builds
# programs against it as strangers do: with pkg-config and with find_package, the examples among them.
set -eu
source=$1
build=$2
cc=$3
flag=$4
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cmake --install "$build" --prefix "$dir/first" >"$dir/log"
mv "$dir/first" "$dir/prefix"
pc=$(find "$dir/prefix" -name cairn.pc)
lib=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_PATH="${pc%/cairn.pc}" LD_LIBRARY_PATH="$lib"

# shellcheck disable=SC2086,SC2046
for program in "$source/tests/abi/consumer/consumer.c" "$source"/client/examples/ex*.c; do
    out=$dir/$(basename "$program" .c)
    "$cc" -std=c11 -Wall -Wextra -Werror $flag "$program" $(pkg-config --cflags --libs cairn) -o "$out"
done
"$dir/consumer"
[ "$(pkg-config --modversion cairn)" = "$("$dir/consumer" version)" ]

cmake -S "$source/tests/abi/consumer" -B "$dir/cmake" -DCMAKE_PREFIX_PATH="$dir/prefix" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flag" >>"$dir/log" || { cat "$dir/log" >&2; exit 1; }
cmake --build "$dir/cmake" >>"$dir/log" || { cat "$dir/log" >&2; exit 1; }
"$dir/cmake/consumer"

# The programs know where the library is without being told.
for program in "$dir"/prefix/*/cairnctl "$dir"/prefix/*/cairnd; do
    env -u LD_LIBRARY_PATH "$program" --help >/dev/null
done
