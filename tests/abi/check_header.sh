#!/bin/sh
# check_header.sh INCLUDE CC CXX: the public headers stand alone in each language that they promise.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/user.c" <<'END'
#include <cairn/btree.h>
#include <cairn/cairn.h>
#include <cairn/cairn.h>
#include <cairn/graph.h>
#include <cairn/hash.h>
#include <cairn/list.h>
#include <cairn/tx.h>
#include <cairn/typed.h>
#include <cairn/watch.h>
struct limits {
    int64_t lower, upper;
};
struct account {
    int64_t balance;
    struct limits limits;
    cairn_ptr next;
    cairn_ptr owners[3];
    char name[32];
    double rates[4];
    uint8_t rest[7];
};
CAIRN_TYPE(account, CAIRN_I64(balance), CAIRN_I64(limits.upper), CAIRN_PTR(next, account),
           CAIRN_PTR(owners, person), CAIRN_CHARS(name), CAIRN_F64(rates), CAIRN_BYTES(rest));
struct person {
    uint32_t id;
    float weight;
    cairn_ptr any;
    cairn_ptr first;
};
CAIRN_TYPE_NUMBERED(person, 7, CAIRN_U32(id), CAIRN_F32(weight), CAIRN_PTR_ANY(any),
                    CAIRN_PTR_NUMBERED(first, 7));
int main(void)
{
    cairn_ptr ptr = CAIRN_NULL;
    struct account a;
    cairn_ptr next = CAIRN_NULL;
    if (CAIRN_TYPE_OF(account)->field_count != 7 || CAIRN_TYPE_OF(person)->number != 7) {
        return 2;
    }
    a.balance = 0;
    (void)cairn_read_field(NULL, ptr, struct account, next, &next);
    (void)cairn_write_field(NULL, ptr, struct account, balance, &a.balance);
    (void)CAIRN_NEW(NULL, account, &ptr);
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
