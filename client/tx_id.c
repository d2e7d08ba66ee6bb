/* Names of commits, and what became of them. A name is a number of the home shard's session that is
 * drawn before the commit; until then it counts as in flight. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "client/tx_set.h"

#define ID_DIGITS 16u
#define WORDS     4u

/* A session's number, kept for a transaction: caller's memory until it is given back on the library
 * thread. */
struct tx_reserved {
    struct sdk_item item;
    struct core_op *op;
};

static void on_release(struct sdk_item *item)
{
    struct tx_reserved *reserved = container_of(item, struct tx_reserved, item);
    core_tx_release(reserved->op);
    mem_free(reserved);
}

void sdk__tx_release(struct tx_set *set)
{
    if (set->reserved != NULL) {
        set->reserved->item.run = on_release;
        sdk__push(set->client, &set->reserved->item);
        set->reserved = NULL;
    }
}

struct core_op *sdk__tx_take_number(struct tx_set *set)
{
    if (set->reserved == NULL) {
        return NULL;
    }
    struct core_op *op = set->reserved->op;
    mem_free(set->reserved);
    set->reserved = NULL;
    return op;
}

/* The home that the transaction would have now; it stays, whatever comes. */
static int home_of(struct cairn_tx *tx, struct cairn_heap **heap, struct core_shard **shard)
{
    struct tx_parts *parts = mem_zalloc(sizeof *parts);
    if (parts == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    int rv = sdk__tx_parts_encode(tx->set, parts);
    if (rv == 0 && parts->count > 0) {
        sdk__tx_parts_order(parts);
        *heap = parts->parts[0].heap;
        *shard = parts->parts[0].shard;
    } else {
        *heap = tx->heap;
        *shard = tx->heap->core->shards[0];
    }
    sdk__tx_parts_free(parts);
    mem_free(parts);
    return rv;
}

static int reserve(struct cairn_tx *tx)
{
    struct tx_set *set = tx->set;
    struct cairn_heap *heap = NULL;
    struct core_shard *shard = NULL;
    int rv = home_of(tx, &heap, &shard);
    if (rv != 0) {
        return rv;
    }
    assert(heap != NULL);
    struct tx_reserved *reserved = mem_zalloc(sizeof *reserved);
    if (reserved == NULL) {
        return sdk__fail(CAIRN_E_NOMEM, "out of memory for a transaction");
    }
    struct cairn_future f;
    sdk__future_init(&f, heap->client);
    f.call.timeout_ms = sdk__tx_left_ms(set);
    rv = f.call.timeout_ms == 0
             ? sdk__because(CAIRN_E_TIMEOUT, "the transaction's deadline has passed")
             : sdk__future_run(&f, core_prepare_tx_reserve(&f.call, heap->core,
                                                           sdk__tx_shard_index(heap, shard)));
    if (rv != 0) {
        mem_free(reserved);
        return rv;
    }
    reserved->op = f.call.op;
    set->reserved = reserved;
    set->home_heap = heap;
    set->home = shard;
    set->id = (cairn_tx_id){{shard->uid, f.call.session, f.call.seq, f.call.value}};
    return 0;
}

int cairn_tx_id_of(cairn_tx *tx, cairn_tx_id *id)
{
    if (tx == NULL || id == NULL) {
        return sdk__missing(tx == NULL ? "tx" : "id");
    }
    memset(id, 0, sizeof *id);
    if (tx->heap->client->embedded != NULL) {
        return sdk__fail(CAIRN_E_UNSUPPORTED, "in a directory a commit's outcome is known at once");
    }
    int rv = tx->set->home == NULL ? reserve(tx) : 0;
    if (rv == 0) {
        *id = tx->set->id;
    }
    return rv;
}

void cairn_tx_id_format(const cairn_tx_id *id, char *text, size_t size)
{
    static const cairn_tx_id none;
    id = id == NULL ? &none : id;
    (void)snprintf(text, text == NULL ? 0 : size,
                   "%016" PRIx64 ".%016" PRIx64 ".%016" PRIx64 ".%016" PRIx64, id->words[0],
                   id->words[1], id->words[2], id->words[3]);
}

static bool word_parse(const char *at, uint64_t *out)
{
    *out = 0;
    for (uint32_t i = 0; i < ID_DIGITS; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) {
            return false;
        }
        *out = *out << 4 | (uint64_t)digit;
    }
    return true;
}

int cairn_tx_id_parse(const char *text, cairn_tx_id *out)
{
    if (out == NULL) {
        return sdk__missing("out");
    }
    bool good = text != NULL && strlen(text) == WORDS * (ID_DIGITS + 1) - 1;
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; good && i < WORDS; i++) {
        const char *at = text + (size_t)i * (ID_DIGITS + 1);
        good = word_parse(at, &out->words[i]) && at[ID_DIGITS] == (i + 1 < WORDS ? '.' : '\0');
    }
    if (!good) {
        memset(out, 0, sizeof *out);
        return sdk__fail(CAIRN_E_INVAL, "'%.80s' is not the id of a transaction",
                         text == NULL ? "" : text);
    }
    return 0;
}

/* ---- outcomes ---- */

int sdk__tx_settle(struct cairn_client *client, const cairn_tx_id *id, uint32_t left_ms,
                   uint64_t *version)
{
    struct cairn_future f;
    sdk__future_init(&f, client);
    f.call.timeout_ms = left_ms;
    int rv = sdk__future_run(&f, core_prepare_tx_settle(&f.call, client->core, id->words[0],
                                                        id->words[1], id->words[2]));
    *version = rv == 0 ? f.call.version : 0;
    return rv;
}

int cairn_tx_outcome(cairn_client *client, const cairn_tx_id *id, uint32_t *state,
                     uint64_t *version)
{
    uint64_t found = 0;
    if (client == NULL || id == NULL || state == NULL) {
        return sdk__missing(client == NULL ? "client" : id == NULL ? "id" : "state");
    }
    *state = CAIRN_TX_UNKNOWN;
    if (version != NULL) {
        *version = 0;
    }
    if (client->embedded != NULL) {
        return sdk__fail(CAIRN_E_UNSUPPORTED, "in a directory a commit's outcome is known at once");
    }
    uint64_t until = sdk__now_ns() + client->timeout_ms * UINT64_C(1000000);
    bool asked_again = false;
    for (;;) {
        uint64_t now = sdk__now_ns();
        if (now >= until) {
            return sdk__fail(CAIRN_E_TIMEOUT,
                             "the transaction is being decided all the time: ask again");
        }
        int rv = sdk__tx_settle(client, id, (uint32_t)((until - now + 999999) / 1000000u), &found);
        if (rv == CAIRN_E_SESSION_EXPIRED && asked_again) {
            return 0;
        }
        if (rv == 0 || rv == CAIRN_E_TX_ABORTED) {
            *state = rv == 0 ? CAIRN_TX_COMMITTED : CAIRN_TX_ABORTED;
            if (version != NULL) {
                *version = found;
            }
            return 0;
        }
        if (rv != CAIRN_E_TX_UNDECIDED && rv != CAIRN_E_SESSION_EXPIRED) {
            return rv;
        }
        /* It may have been our own session that had expired; the next one is new. */
        asked_again = rv == CAIRN_E_SESSION_EXPIRED;
        sdk__pause_us(SDK_TX_SETTLE_PAUSE_US);
    }
}
