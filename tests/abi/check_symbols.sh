#!/bin/sh
# check_symbols.sh LIBRARY LIST: what LIBRARY exports is LIST, no more and no less, all under one version.
# A function that is to become part of the SDK is added to LIST by hand; one that stands there is never removed.
set -eu
found=$(mktemp)
trap 'rm -f "$found"' EXIT
nm -D --defined-only "$1" | awk '$2 != "A" { print $3 }' | LC_ALL=C sort >"$found"
if ! sed 's/$/@@CAIRN_0/' "$2" | LC_ALL=C sort | diff -u - "$found"; then
    echo "the exported symbols of $1 differ from $2 (- expected, + found)" >&2
    exit 1
fi
soname=$(objdump -p "$1" | awk '$1 == "SONAME" { print $2 }')
if [ "$soname" != libcairn.so.0 ]; then
    echo "the SONAME is '$soname', not libcairn.so.0" >&2
    exit 1
fi
