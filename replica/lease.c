/* Leases of slots: which of them a session has, so that they go back when it ends (rules X20, E21).
 * The heap knows the slots of a lease; here stands whose it is, in the arena like everything. */
#include <string.h>

#include "alloc/command.h"
#include "replica/internal.h"

struct lease_key {
    uint8_t bytes[SESSION_LEASE_KEY_BYTES];
};

/* Big-endian, so that a session's leases stand together. */
static struct slice key_of(uint64_t session, uint64_t lease, struct lease_key *key)
{
    uint64_t big = __builtin_bswap64(session);
    key->bytes[0] = 'l';
    memcpy(key->bytes + 1, &big, sizeof big);
    big = __builtin_bswap64(lease);
    memcpy(key->bytes + 9, &big, sizeof big);
    return slice_of(key->bytes, sizeof key->bytes);
}

/* The session's next lease behind `after`; 0: none. Numbers begin with 1. */
static uint64_t next_of(const struct heap *heap, uint64_t session, uint64_t after)
{
    struct lease_key from;
    struct slice key;
    struct slice value;
    struct slice begin = key_of(session, after, &from);
    if (heap_map_next(heap, HEAP_MAP_SESSIONS, begin, &key, &value) != 0 ||
        key.len != SESSION_LEASE_KEY_BYTES || memcmp(key.data, from.bytes, 9) != 0) {
        return 0;
    }
    uint64_t big;
    memcpy(&big, key.data + 9, sizeof big);
    return __builtin_bswap64(big);
}

static int forget(struct heap *heap, uint64_t session, uint64_t lease)
{
    struct lease_key key;
    return heap_map_delete(heap, HEAP_MAP_SESSIONS, key_of(session, lease, &key));
}

/* Notes of leases whose slots are all in use go; how many remain. */
static int count_unused(struct heap *heap, uint64_t session, uint32_t *count)
{
    uint64_t lease = 0;
    *count = 0;
    while ((lease = next_of(heap, session, lease)) != 0) {
        uint64_t ptrs[HEAP_LEASE_SLOTS_MAX];
        uint64_t owner = 0;
        uint32_t left = 0;
        int rv = heap_lease_get(heap, lease, &owner, ptrs, &left);
        if (rv == 0 && left > 0) {
            ++*count;
            continue;
        }
        if (rv == 0) {
            rv = heap_lease_return(heap, lease);
        } else if (rv == ERR_NOTFOUND) {
            rv = 0; /* used up */
        }
        if (rv == 0) {
            rv = forget(heap, session, lease);
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

int lease_take(struct heap *heap, uint64_t session, uint64_t version, uint32_t count,
               uint64_t *lease)
{
    uint32_t have = 0;
    *lease = 0;
    int rv = count_unused(heap, session, &have);
    if (rv != 0) {
        return rv;
    }
    if (have >= SESSION_LEASES_MAX) {
        return ERR_LIMIT;
    }
    struct heap_command command = {.kind = HEAP_COMMAND_LEASE, .session = session, .count = count};
    struct heap_outcome outcome;
    rv = heap_apply(heap, version, &command, &outcome);
    if (rv != 0 || outcome.code != 0) {
        return rv != 0 ? rv : outcome.code;
    }
    struct lease_key key;
    rv = heap_map_put(heap, HEAP_MAP_SESSIONS, key_of(session, outcome.value, &key),
                      slice_of("", 1));
    if (rv != 0) {
        int back = heap_lease_return(heap, outcome.value);
        return back != 0 ? ERR_CORRUPT : rv;
    }
    *lease = outcome.value;
    return 0;
}

int lease_return_all(struct heap *heap, uint64_t session)
{
    uint64_t lease;
    while ((lease = next_of(heap, session, 0)) != 0) {
        int rv = heap_lease_return(heap, lease);
        if (rv == 0 || rv == ERR_NOTFOUND) {
            rv = forget(heap, session, lease);
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}
