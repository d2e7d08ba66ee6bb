/* States of the protocol's world as 128 bits, and the network's bag. */
#include <stdio.h>
#include <string.h>

#include "protocol_internal.h"

/* ---- messages in flight ----------------------------------------------------------------------
 */

static uint8_t number_of(struct message m)
{
    return (uint8_t)(((m.kind * PROTOCOL_PARTS_MAX + m.part) * 3 + m.from) * 2 + m.flag);
}
static_assert(MSG_KINDS * PROTOCOL_PARTS_MAX * 3 * 2 <= 256, "a byte each");

static struct message message_of(uint8_t number)
{
    struct message m = {.flag = number % 2 != 0, .from = (uint8_t)(number / 2 % 3)};
    m.part = (uint8_t)(number / 6 % PROTOCOL_PARTS_MAX);
    m.kind = (uint8_t)(number / (6 * PROTOCOL_PARTS_MAX));
    return m;
}

static void insert(struct world *w, uint8_t number)
{
    uint32_t at = 0;
    while (at < w->bag_count && w->bag[at] < number) {
        at++;
    }
    if (at < w->bag_count && w->bag[at] == number) {
        return;
    }
    memmove(w->bag + at + 1, w->bag + at, w->bag_count - at);
    w->bag[at] = number;
    w->bag_count++;
}

bool bag_put(const struct protocol *p, struct world *w, struct message message)
{
    if (message.kind == MSG_NONE || w->bag_count >= p->bag_max) {
        return false;
    }
    insert(w, number_of(message));
    return true;
}

struct message bag_get(const struct world *w, uint32_t i)
{
    assert(i < w->bag_count);
    return message_of(w->bag[i]);
}

struct message bag_take(struct world *w, uint32_t i)
{
    struct message m = bag_get(w, i);
    memmove(w->bag + i, w->bag + i + 1, w->bag_count - i - 1);
    w->bag_count--;
    return m;
}

void bag_vanish(struct world *w, uint32_t slot)
{
    struct world old = *w;
    w->bag_count = 0;
    for (uint32_t i = 0; i < old.bag_count; i++) {
        struct message m = bag_get(&old, i);
        if (m.from == slot && m.kind >= MSG_YES) {
            continue;
        }
        if (m.from == slot) {
            m.from = FROM_VANISHED;
            m.flag = false;
        }
        insert(w, number_of(m));
    }
}

void bag_drop_votes(struct world *w, uint32_t slot)
{
    struct world old = *w;
    w->bag_count = 0;
    for (uint32_t i = 0; i < old.bag_count; i++) {
        struct message m = bag_get(&old, i);
        if (m.from != slot || m.kind < MSG_YES || m.kind == MSG_APPLIED ||
            m.kind == MSG_FORGOTTEN) {
            insert(w, number_of(m));
        }
    }
}

void bag_make_stale(struct world *w, uint32_t slot)
{
    struct world old = *w;
    w->bag_count = 0;
    for (uint32_t i = 0; i < old.bag_count; i++) {
        struct message m = bag_get(&old, i);
        if (m.from == slot && m.part == 0 &&
            (m.kind == MSG_PREPARE || m.kind == MSG_ASK || m.kind == MSG_YES)) {
            m.flag = true;
        }
        insert(w, number_of(m));
    }
}

/* ---- states ----------------------------------------------------------------------------------
 */

struct bits {
    uint64_t word;
    uint32_t used;
};
static void put(struct bits *b, uint32_t width, uint32_t value)
{
    assert(value < 1u << width);
    b->word |= (uint64_t)value << b->used;
    b->used += width;
    assert(b->used <= 64);
}
static uint8_t get(struct bits *b, uint32_t width)
{
    uint8_t value = (uint8_t)(b->word & ((1u << width) - 1));
    b->word >>= width;
    return value;
}

void protocol_init(struct world *w)
{
    memset(w, 0, sizeof *w);
}

/* order[i]: which participant is written as number i. */
static struct world_key pack(const struct world *w, const uint8_t *order)
{
    struct bits b = {0};
    struct world renamed = {.bag_count = 0};
    uint8_t name[PROTOCOL_PARTS_MAX];
    for (uint32_t i = 0; i < PROTOCOL_PARTS_MAX; i++) {
        const struct participant *at = &w->parts[order[i]];
        name[order[i]] = (uint8_t)i;
        put(&b, 2, at->state);
        put(&b, 1, at->late);
        put(&b, 1, at->committed);
    }
    put(&b, 1, w->refused);
    put(&b, 2, w->ring);
    put(&b, 2, w->session);
    put(&b, 2, w->client);
    for (uint32_t s = 0; s < 2; s++) {
        const struct coordinator *c = &w->slots[s];
        put(&b, 2, c->mode);
        put(&b, 2, c->purpose);
        put(&b, 2, c->state);
        put(&b, 1, c->unknown);
        put(&b, 1, c->home_forgot);
        for (uint32_t i = 0; i < PROTOCOL_PARTS_MAX; i++) {
            put(&b, 3, c->parts[order[i]]);
        }
    }
    struct world_key key = {.state = b.word};
    for (uint32_t i = 0; i < w->bag_count; i++) {
        struct message m = bag_get(w, i);
        m.part = name[m.part];
        insert(&renamed, number_of(m));
    }
    for (uint32_t i = 0; i < renamed.bag_count; i++) {
        key.bag |= (uint64_t)renamed.bag[i] << (8 * i);
    }
    return key;
}

/* What nobody looks at any more is written as nothing, so that states that go on alike are one. */
static void forget_details(const struct protocol *p, struct world *w)
{
    bool all_committed = true;
    for (uint32_t i = 0; i < p->count; i++) {
        all_committed = all_committed && w->parts[i].committed;
    }
    if (w->session == SESSION_TOMBSTONE && w->ring == RING_NONE) {
        w->session = SESSION_OVER;
    }
    /* What it was told is certain by itself from here on: let it listen for something else. */
    if ((w->client == CLIENT_COMMITTED && all_committed) ||
        (w->client == CLIENT_ABORTED && w->refused)) {
        w->client = CLIENT_WAITS;
    }
    for (uint32_t s = 0; s < 2; s++) {
        struct coordinator *c = &w->slots[s];
        if (c->mode != SLOT_MACHINE || c->state == COORD_GATHERING) {
            continue;
        }
        /* Decided and said: only who has APPLIED still counts. */
        c->purpose = COORD_COMMIT;
        c->unknown = false;
        bag_drop_votes(w, s);
        for (uint32_t i = 0; c->state == COORD_ABORTING && i < p->count; i++) {
            c->parts[i] = c->parts[i] == COORD_PART_APPLIED ? COORD_PART_APPLIED : COORD_PART_NO;
        }
    }
}

struct world_key protocol_key(const struct protocol *p, const struct world *state)
{
    struct world copy = *state;
    const struct world *w = &copy;
    forget_details(p, &copy);
    static const uint8_t as_is[PROTOCOL_PARTS_MAX] = {0, 1, 2};
    static const uint8_t swapped[PROTOCOL_PARTS_MAX] = {0, 2, 1};
    struct world_key a = pack(w, as_is);
    if (p->count < 3) {
        return a;
    }
    struct world_key b = pack(w, swapped);
    bool less = b.state < a.state || (b.state == a.state && b.bag < a.bag);
    return less ? b : a;
}

void protocol_unpack(const struct protocol *p, struct world_key key, struct world *w)
{
    struct bits b = {.word = key.state};
    (void)p;
    memset(w, 0, sizeof *w);
    for (uint32_t i = 0; i < PROTOCOL_PARTS_MAX; i++) {
        w->parts[i].state = get(&b, 2);
        w->parts[i].late = get(&b, 1) != 0;
        w->parts[i].committed = get(&b, 1) != 0;
    }
    w->refused = get(&b, 1) != 0;
    w->ring = get(&b, 2);
    w->session = get(&b, 2);
    w->client = get(&b, 2);
    for (uint32_t s = 0; s < 2; s++) {
        struct coordinator *c = &w->slots[s];
        c->mode = get(&b, 2);
        c->purpose = get(&b, 2);
        c->state = get(&b, 2);
        c->unknown = get(&b, 1) != 0;
        c->home_forgot = get(&b, 1) != 0;
        for (uint32_t i = 0; i < PROTOCOL_PARTS_MAX; i++) {
            c->parts[i] = get(&b, 3);
        }
    }
    for (; key.bag != 0; key.bag >>= 8) {
        w->bag[w->bag_count++] = (uint8_t)key.bag;
    }
}

void protocol_print(const struct protocol *p, const struct world *w)
{
    static const char *const states[] = {"none", "PREPARED", "COMMITTED", "refused"};
    static const char *const modes[] = {"idle", "machine", "forgetting"};
    static const char *const purposes[] = {"commit", "recover", "finish"};
    static const char *const phases[] = {"gathering", "committing", "aborting", "done"};
    static const char *const parts[] = {"preparing", "asked", "yes", "no", "late", "applied"};
    static const char *const rings[] = {"-", "committed", "aborted"};
    static const char *const lives[] = {"alive", "tombstone", "over"};
    static const char *const views[] = {"waits", "knows: committed", "knows: aborted"};
    static const char *const kinds[] = {"",      "PREPARE",   "ASK",     "COMMIT",
                                        "ABORT", "FORGET",    "yes",     "no",
                                        "late",  "committed", "applied", "forgotten"};
    static const char *const senders[] = {"slot 0", "slot 1", "vanished"};
    printf("   ");
    for (uint32_t i = 0; i < p->count; i++) {
        printf(" %u:%s%s%s", i, states[w->parts[i].state], w->parts[i].late ? " late" : "",
               w->parts[i].committed ? " (has committed)" : "");
    }
    printf("; session %s, result %s; client %s%s\n", lives[w->session], rings[w->ring],
           views[w->client], w->refused ? "; refused" : "");
    for (uint32_t s = 0; s < 2; s++) {
        const struct coordinator *c = &w->slots[s];
        if (c->mode == SLOT_IDLE) {
            continue;
        }
        printf("      slot %u %s", s, modes[c->mode]);
        if (c->mode == SLOT_MACHINE) {
            printf(" %s %s:", purposes[c->purpose], phases[c->state]);
            for (uint32_t i = 0; i < p->count; i++) {
                printf(" %s", parts[c->parts[i]]);
            }
        }
        printf("%s\n", c->home_forgot ? " home has" : "");
    }
    for (uint32_t i = 0; i < w->bag_count; i++) {
        struct message m = bag_get(w, i);
        printf("      in flight: %s %u of %s%s\n", kinds[m.kind], m.part, senders[m.from],
               m.flag ? " (stale / unknown)" : "");
    }
}
