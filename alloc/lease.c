/* Slot leases: pointers that are final before their objects exist (X20). A lease is a record of
 * HEAP_MAP_LEASES; its slots are LEASED and name it, so that whether a pointer is still promised is
 * one look at its slot. The record goes with the last of them. */
#include <string.h>

#include "alloc/engine.h"
#include "alloc/txn.h"

struct lease_key {
    uint8_t bytes[8];
};

static struct slice key_of(uint64_t lease, struct lease_key *key)
{
    store_u64(key->bytes, __builtin_bswap64(lease));
    return slice_of(key->bytes, sizeof key->bytes);
}

/* Slots follow the record; its value is 8-aligned in the arena (alloc/map.c). */
static const struct lease_record *lease_find(const struct heap *h, uint64_t lease)
{
    struct lease_key key;
    struct slice value;
    if (heap_map_get(h, HEAP_MAP_LEASES, key_of(lease, &key), &value) != 0) {
        return NULL;
    }
    const struct lease_record *record = (const struct lease_record *)(const void *)value.data;
    assert(value.len == sizeof *record + (uint64_t)record->count * 8);
    return record;
}

static uint64_t lease_slot(const struct lease_record *record, uint32_t i)
{
    return load_u64((const uint8_t *)(record + 1) + (size_t)i * 8);
}

static bool is_leased(const struct heap *h, uint64_t slot, uint64_t lease)
{
    uint64_t word = slot_get(h, slot);
    return slot_word_state(word) == SLOT_LEASED && slot_word_place(word) == lease;
}

int heap_lease(struct heap *heap, uint64_t session, uint32_t count, uint64_t *lease,
               uint64_t ptrs[])
{
    *lease = 0;
    if (count == 0 || count > HEAP_LEASE_SLOTS_MAX) {
        return ERR_INVAL;
    }
    struct {
        struct lease_record record;
        uint64_t slots[HEAP_LEASE_SLOTS_MAX];
    } value;
    memset(&value, 0, sizeof value);
    value.record.session = session;
    value.record.count = value.record.left = count;
    struct slice bytes = slice_of(&value, sizeof value.record + (size_t)count * 8);
    struct lease_key key;
    uint64_t number = header(heap)->lease_next;
    struct slice k = key_of(number, &key);
    int rv = heap_map_put(heap, HEAP_MAP_LEASES, k, bytes);
    if (rv != 0) {
        return rv;
    }
    uint32_t taken = 0;
    while (taken < count) {
        uint64_t slot = 0;
        rv = slot_prepare(heap, &slot);
        if (rv != 0) {
            break;
        }
        uint32_t generation = slot_take(heap, slot, SLOT_LEASED, number);
        value.slots[taken] = slot;
        ptrs[taken] = ptr_make(header(heap)->shard, generation, slot);
        taken++;
    }
    if (rv != 0) {
        while (taken > 0) {
            slot_release(heap, value.slots[--taken]);
        }
        (void)heap_map_delete(heap, HEAP_MAP_LEASES, k);
        return rv;
    }
    memcpy(heap_map_edit(heap, HEAP_MAP_LEASES, k, 0, bytes.len), bytes.data, bytes.len);
    struct heap_header *hd = header_edit(heap);
    hd->lease_next++;
    hd->leased_count += count;
    *lease = number;
    return 0;
}

int heap_lease_get(const struct heap *heap, uint64_t lease, uint64_t *session, uint64_t ptrs[],
                   uint32_t *count)
{
    *session = 0;
    *count = 0;
    const struct lease_record *record = lease_find(heap, lease);
    if (record == NULL) {
        return ERR_NOTFOUND;
    }
    *session = record->session;
    for (uint32_t i = 0; i < record->count; i++) {
        uint64_t slot = lease_slot(record, i);
        int rv = slot_load(heap, slot);
        if (rv != 0) {
            return rv;
        }
        if (is_leased(heap, slot, lease)) {
            uint32_t generation = slot_word_generation(slot_get(heap, slot));
            ptrs[*count] = ptr_make(header(heap)->shard, generation, slot);
            *count += 1;
        }
    }
    assert(*count == record->left);
    return 0;
}

int lease_find_slot(const struct heap *h, uint64_t session, uint64_t ptr)
{
    if (ptr == 0 || ptr_shard(ptr) != header(h)->shard) {
        return ERR_INVAL;
    }
    int rv = slot_load(h, ptr_slot(ptr));
    if (rv != 0) {
        return rv;
    }
    uint64_t word = slot_get(h, ptr_slot(ptr));
    if (slot_word_state(word) != SLOT_LEASED || slot_word_generation(word) != ptr_generation(ptr)) {
        return ERR_STALE;
    }
    const struct lease_record *record = lease_find(h, slot_word_place(word));
    assert(record != NULL);
    return record->session == session ? 0 : ERR_STALE;
}

void lease_forget_slots(struct heap *h, uint64_t lease, uint32_t count)
{
    struct lease_key key;
    struct slice k = key_of(lease, &key);
    struct lease_record *record = (struct lease_record *)(void *)heap_map_edit(
        h, HEAP_MAP_LEASES, k, 0, sizeof(struct lease_record));
    assert(record != NULL);
    assert(record->left >= count);
    record->left -= count;
    if (record->left == 0) {
        (void)heap_map_delete(h, HEAP_MAP_LEASES, k);
    }
    header_edit(h)->leased_count -= count;
}

static void lease_forget_slot(struct heap *h, uint64_t slot)
{
    uint64_t lease = slot_word_place(slot_get(h, slot));
    assert(is_leased(h, slot, lease));
    lease_forget_slots(h, lease, 1);
}

void lease_use_slot(struct heap *h, uint64_t slot, enum slot_state state, uint64_t place)
{
    lease_forget_slot(h, slot);
    slot_set(h, slot, state, place);
}

void lease_drop_slot(struct heap *h, uint64_t slot)
{
    lease_forget_slot(h, slot);
    slot_release(h, slot);
}

int heap_lease_return(struct heap *heap, uint64_t lease)
{
    const struct lease_record *record = lease_find(heap, lease);
    if (record == NULL) {
        return ERR_NOTFOUND;
    }
    header_edit(heap)->leased_count -= record->left;
    for (uint32_t i = 0; i < record->count; i++) {
        uint64_t slot = lease_slot(record, i);
        if (is_leased(heap, slot, lease)) {
            slot_release(heap, slot);
        }
    }
    struct lease_key key;
    return heap_map_delete(heap, HEAP_MAP_LEASES, key_of(lease, &key));
}
