/* Snapshots: consensus carries a manifest of a hundred bytes, the pages travel on the bulk lane
 * (rules E11, X23).
 *
 * Sender: one view per shard is pinned for all receivers at once, and the log behind it is kept,
 * until it has been idle or done for a while. Receiver:
 *
 *   OPENING -> FETCHING -> (WAITING for a running checkpoint ->) WRITING -> installed
 *
 * Pages are staged beside the heap that is there, verified against the digest as a whole, written
 * to new files, and only then take its place. Any failure leaves what was, and the leader offers
 * again. */
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "replica/internal.h"

#define MANIFEST_FORMAT   1u
#define MANIFEST_BYTES    (2u + 7u * 8u + 4u)
#define PAGES_SCANNED_MAX 65536u /* absent ones of one request */
#define PAGE_ITEM_BYTES   (8u + HEAP_PAGE_BYTES)

/* ---- manifest
 * ------------------------------------------------------------------------------------------------------
 */

int manifest_encode(const struct manifest *m, struct buf *out)
{
    uint8_t *at = buf_extend(out, MANIFEST_BYTES);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    const uint64_t fields[] = {m->uid,        m->index,     m->term, m->digest,
                               m->page_count, m->bytes_max, m->view};
    store_u16(at, MANIFEST_FORMAT);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        store_u64(at + 2 + i * 8, fields[i]);
    }
    store_u32(at + 2 + sizeof fields, m->node);
    return 0;
}

int manifest_decode(struct slice data, struct manifest *out)
{
    struct cursor c = cursor_of(data);
    uint16_t format = cursor_u16(&c);
    out->uid = cursor_u64(&c);
    out->index = cursor_u64(&c);
    out->term = cursor_u64(&c);
    out->digest = cursor_u64(&c);
    out->page_count = cursor_u64(&c);
    out->bytes_max = cursor_u64(&c);
    out->view = cursor_u64(&c);
    out->node = cursor_u32(&c);
    return c.failed || cursor_left(&c) != 0 || format != MANIFEST_FORMAT ? ERR_PROTOCOL : 0;
}

/* ---- sending
 * -------------------------------------------------------------------------------------------------------
 */

static void pin_close(struct shard *s)
{
    if (s->pin.view != NULL) {
        view_close(s->pin.view);
    }
    memset(&s->pin, 0, sizeof s->pin);
}

/* A view at `index` or later: consensus waits until the receiver has got that far, so that an older
 * one would be offered for ever. */
static int pin_open(struct shard *s, uint64_t index)
{
    struct pin *pin = &s->pin;
    if (pin->view != NULL && !view_canceled(pin->view) && pin->manifest.index >= index) {
        return 0;
    }
    pin_close(s);
    int rv = view_open(s->heap, &pin->view);
    if (rv != 0) {
        pin->view = NULL;
        return rv;
    }
    struct heap_opts opts;
    heap_get_opts(s->heap, &opts);
    pin->manifest = (struct manifest){
        .uid = s->uid,
        .index = view_index(pin->view),
        .term = view_term(pin->view),
        .digest = view_digest(pin->view),
        .page_count = view_page_count(pin->view),
        .bytes_max = opts.bytes_max,
        .view = ++s->r->token_last,
        .node = s->r->opts.node,
    };
    fsm_config(s->heap, &pin->config, &pin->config_index);
    s->r->counters.snapshots_sent++;
    log_info("replica", "a replica is filled from here", "shard=%llx index=%llu pages=%llu",
             (unsigned long long)s->uid, (unsigned long long)pin->manifest.index,
             (unsigned long long)pin->manifest.page_count);
    return 0;
}

int transfer_fill(struct shard *s, struct consensus_message *m, struct buf *data)
{
    if (s->failed || s->install.step != INSTALL_NONE || s->applied == 0) {
        return ERR_BUSY;
    }
    int rv = pin_open(s, m->index);
    if (rv != 0) {
        return rv;
    }
    struct pin *pin = &s->pin;
    pin->used_ms = env_now_ms(s->r->env);
    pin->done_ms = 0;
    m->index = pin->manifest.index;
    m->log_term = pin->manifest.term;
    m->config = pin->config;
    m->config_index = pin->config_index;
    if (buf_extend(data, 4) == NULL) {
        return ERR_NOMEM;
    }
    size_t start = data->len;
    rv = consensus_config_encode(&pin->config, data);
    if (rv != 0) {
        return rv;
    }
    store_u32(data->data + start - 4, (uint32_t)(data->len - start));
    uint8_t *length = buf_extend(data, 4);
    if (length == NULL) {
        return ERR_NOMEM;
    }
    store_u32(length, MANIFEST_BYTES);
    return manifest_encode(&pin->manifest, data);
}

static int serve_open(struct replica *r, struct slice body, uint16_t *answer_kind, struct buf *out)
{
    struct msg_pages_open m;
    if (message_decode_pages_open(body, &m) != 0) {
        return ERR_PROTOCOL;
    }
    struct shard *s = replica_shard(r, m.uid);
    if (s == NULL || s->pin.view == NULL || view_canceled(s->pin.view) ||
        s->pin.manifest.index != m.index || s->pin.manifest.term != m.term ||
        s->pin.manifest.digest != m.digest) {
        return ERR_NOTFOUND;
    }
    s->pin.used_ms = env_now_ms(r->env);
    s->pin.done_ms = 0;
    struct msg_pages_info info = {
        .view = s->pin.manifest.view,
        .page_count = s->pin.manifest.page_count,
        .bytes_max = s->pin.manifest.bytes_max,
    };
    *answer_kind = KIND_PAGES_INFO;
    return message_encode_pages_info(&info, out);
}

static int serve_fetch(struct replica *r, struct slice body, uint16_t *answer_kind, struct buf *out)
{
    struct msg_pages_fetch m;
    if (message_decode_pages_fetch(body, &m) != 0) {
        return ERR_PROTOCOL;
    }
    struct shard *s = replica_shard(r, m.uid);
    if (s == NULL || s->pin.view == NULL || s->pin.manifest.view != m.view ||
        view_canceled(s->pin.view)) {
        return ERR_NOTFOUND;
    }
    uint32_t max = m.max == 0 || m.max > PAGES_PER_FETCH ? PAGES_PER_FETCH : m.max;
    struct buf pages = {0};
    uint64_t page = m.page;
    uint64_t end = s->pin.manifest.page_count;
    uint32_t count = 0;
    int rv = 0;
    for (uint32_t scanned = 0; page < end && count < max && scanned < PAGES_SCANNED_MAX;
         page++, scanned++) {
        const uint8_t *bytes = view_page(s->pin.view, page);
        if (bytes == NULL) {
            continue;
        }
        uint8_t *at = buf_extend(&pages, PAGE_ITEM_BYTES);
        if (at == NULL) {
            rv = ERR_NOMEM;
            break;
        }
        store_u64(at, page);
        memcpy(at + 8, bytes, HEAP_PAGE_BYTES);
        count++;
    }
    s->pin.used_ms = env_now_ms(r->env);
    s->pin.done_ms = page >= end ? s->pin.used_ms : 0;
    struct msg_pages answer = {
        .next = page >= end ? 0 : page,
        .checksum = hash64(0, pages.data, pages.len),
        .pages = slice_of(pages.data, pages.len),
    };
    *answer_kind = KIND_PAGES;
    rv = rv != 0 ? rv : message_encode_pages(&answer, out);
    buf_close(&pages);
    return rv;
}

int transfer_serve(struct replica *r, uint32_t node, uint16_t kind, struct slice body,
                   uint16_t *answer_kind, struct buf *out)
{
    (void)node;
    struct msg_pages_close close;
    switch (kind) {
    case KIND_PAGES_OPEN:
        return serve_open(r, body, answer_kind, out);
    case KIND_PAGES_FETCH:
        return serve_fetch(r, body, answer_kind, out);
    case KIND_PAGES_CLOSE:
        /* Other receivers may still be reading: the view goes by itself when nobody does. */
        return message_decode_pages_close(body, &close) != 0 ? ERR_PROTOCOL : 0;
    default:
        return ERR_PROTOCOL;
    }
}

/* ---- receiving
 * -----------------------------------------------------------------------------------------------------
 */

static void install_clear(struct shard *s)
{
    struct install *in = &s->install;
    if (in->receive != NULL) {
        heap_receive_cancel(in->receive);
    }
    if (in->heap != NULL) {
        heap_free(in->heap);
    }
    memset(in, 0, sizeof *in);
}

static void install_fail(struct shard *s, int err)
{
    log_warn("replica", "filling this replica failed, the leader will offer again",
             "shard=%llx err=%s", (unsigned long long)s->uid, err_name(err));
    install_clear(s);
    struct consensus_update *update = NULL;
    int rv = consensus_snapshot_installed(s->consensus, env_now_ms(s->r->env), false, &update);
    shard__handle(s, rv, update);
    uint64_t index = wal_log_durable_index(s->log);
    if (!s->failed && index > 0 && wal_log_term(s->log, index) != 0) {
        /* What became durable meanwhile was not reported. */
        rv = consensus_persisted(s->consensus, env_now_ms(s->r->env), index,
                                 wal_log_term(s->log, index), &update);
        shard__handle(s, rv, update);
    }
}

static void request(struct shard *s, uint16_t kind)
{
    struct install *in = &s->install;
    struct buf *scratch = &s->r->scratch;
    int rv;
    buf_clear(scratch);
    if (kind == KIND_PAGES_OPEN) {
        struct msg_pages_open m = {.uid = s->uid,
                                   .index = in->manifest.index,
                                   .term = in->manifest.term,
                                   .digest = in->manifest.digest};
        rv = message_encode_pages_open(&m, scratch);
    } else {
        struct msg_pages_fetch m = {
            .uid = s->uid, .view = in->view, .page = in->next, .max = PAGES_PER_FETCH};
        rv = message_encode_pages_fetch(&m, scratch);
    }
    in->token = ++s->r->token_last;
    in->sent_ms = env_now_ms(s->r->env);
    if (rv == 0) {
        s->r->cbs->bulk_request(s->r->arg, in->manifest.node, kind,
                                slice_of(scratch->data, scratch->len), in->token);
    } /* else the time-out ends it */
}

void transfer_install(struct shard *s, const struct consensus_message *m)
{
    struct install *in = &s->install;
    assert(in->step == INSTALL_NONE);
    pin_close(s);
    shard__refuse_waiters(s, ERR_NOTLEADER);
    in->step = INSTALL_OPENING;
    in->config = m->config;
    in->config_index = m->config_index;
    struct heap_opts opts;
    heap_get_opts(s->heap, &opts);
    if (manifest_decode(m->data, &in->manifest) != 0 || in->manifest.uid != s->uid ||
        in->manifest.index != m->index || in->manifest.term != m->log_term ||
        in->manifest.node != replica_id_node(m->from) || in->manifest.bytes_max != opts.bytes_max) {
        /* How many pages there may be heap_receive_open() knows. */
        s->r->counters.malformed++;
        in->sent_ms = 0; /* ends at the next tick: not from inside an event */
        return;
    }
    request(s, KIND_PAGES_OPEN);
}

static void installed(void *arg, const struct image_result *result)
{
    struct shard *s = arg;
    struct install *in = &s->install;
    if (s->r->checkpointing == s) {
        s->r->checkpointing = NULL;
    }
    if (s->failed || s->dropped) {
        install_clear(s);
        return;
    }
    assert(in->step == INSTALL_WRITING);
    if (result->err == ERR_DISKFULL || result->err == ERR_NOMEM) {
        install_fail(s, result->err);
        return;
    }
    int rv = result->err;
    if (rv == 0) {
        heap_free(s->heap);
        s->heap = in->heap;
        in->heap = NULL;
        uint64_t index = in->manifest.index;
        rv = wal_log_restart(s->log, index, in->manifest.term, &s->hard_state_position);
        if (rv == 0) {
            rv = wal_log_mark_checkpoint(s->log, result->sequence, index, index, NULL);
        }
        s->applied = index;
        s->marks_count = s->marks_head = 0;
        s->keep_after = s->checkpoint_index = index;
        s->checkpoint_sequence = result->sequence;
        s->checkpoint_ms = env_now_ms(s->r->env);
        s->log_bytes = s->log_entries = 0;
        s->checkpoint_wanted = s->checkpoint_pressed = false;
    }
    install_clear(s);
    if (rv != 0) {
        shard__fail(s, rv, "an installed image could not be made durable");
        return;
    }
    s->r->counters.snapshots_installed++;
    log_info("replica", "this replica was filled", "shard=%llx index=%llu pages=%llu",
             (unsigned long long)s->uid, (unsigned long long)s->applied,
             (unsigned long long)result->pages_total);
    if (s->uid == SHARD_META) {
        s->r->meta_changed = true;
        replica__turn(s);
    }
    struct consensus_update *update = NULL;
    rv = consensus_snapshot_installed(s->consensus, env_now_ms(s->r->env), true, &update);
    shard__handle(s, rv, update);
}

static void install_write(struct shard *s)
{
    struct install *in = &s->install;
    in->step = INSTALL_WAITING;
    if (image_busy(s->image)) {
        return; /* the tick tries again */
    }
    int rv = image_replace(s->image, in->heap, installed, s);
    if (rv == 0) {
        in->step = INSTALL_WRITING;
    } else if (rv != ERR_BUSY) {
        if (rv == ERR_IO || rv == ERR_CORRUPT) {
            shard__fail(s, rv, "an image to install could not be written");
        } else {
            install_fail(s, rv);
        }
    }
}

static int take_pages(struct shard *s, struct slice body)
{
    struct install *in = &s->install;
    struct msg_pages m;
    if (message_decode_pages(body, &m) != 0 || m.pages.len % PAGE_ITEM_BYTES != 0 ||
        (m.next != 0 && (m.next <= in->next || m.next >= in->manifest.page_count))) {
        return ERR_PROTOCOL;
    }
    if (hash64(0, m.pages.data, m.pages.len) != m.checksum) {
        return ERR_CORRUPT;
    }
    for (size_t at = 0; at < m.pages.len; at += PAGE_ITEM_BYTES) {
        int rv = heap_receive_page(in->receive, load_u64(m.pages.data + at), m.pages.data + at + 8);
        if (rv != 0) {
            return rv;
        }
    }
    if (m.next != 0) {
        in->next = m.next;
        request(s, KIND_PAGES_FETCH);
        return 0;
    }
    struct heap_receive *receive = in->receive;
    in->receive = NULL;
    int rv = heap_receive_finish(receive, s->uid, in->manifest.index, in->manifest.term,
                                 in->manifest.digest, &in->heap);
    if (rv == 0) {
        rv = fsm_check(in->heap);
    }
    if (rv == 0) {
        install_write(s);
    }
    return rv;
}

void transfer_answer(struct shard *s, uint64_t token, int err, uint16_t kind, struct slice body)
{
    struct install *in = &s->install;
    if (in->step == INSTALL_NONE || in->token != token || s->failed || s->dropped) {
        return;
    }
    in->token = 0;
    int rv = err;
    if (rv == 0 && in->step == INSTALL_OPENING) {
        struct msg_pages_info info;
        rv = kind != KIND_PAGES_INFO || message_decode_pages_info(body, &info) != 0 ||
                     info.page_count != in->manifest.page_count ||
                     info.bytes_max != in->manifest.bytes_max
                 ? ERR_PROTOCOL
                 : heap_receive_open(info.page_count, info.bytes_max, &in->receive);
        if (rv == 0) {
            in->view = info.view;
            in->step = INSTALL_FETCHING;
            request(s, KIND_PAGES_FETCH);
        }
    } else if (rv == 0 && in->step == INSTALL_FETCHING) {
        rv = kind != KIND_PAGES ? ERR_PROTOCOL : take_pages(s, body);
    }
    if (rv != 0 && !s->failed) {
        install_fail(s, rv);
    }
}

/* Everybody's log has got to where the view is: nobody wants it, or what lies behind it. */
static bool everybody_has(const struct shard *s, uint64_t index)
{
    struct consensus_config config;
    bool all = shard__leads(s);
    consensus_get_config(s->consensus, &config);
    for (uint32_t i = 0; i < config.count && all; i++) {
        uint64_t id = config.servers[i].id;
        all = id == s->self_id || consensus_match_index(s->consensus, id) >= index;
    }
    return all;
}

void transfer_tick(struct shard *s, uint64_t now_ms)
{
    struct install *in = &s->install;
    struct pin *pin = &s->pin;
    /* The view keeps the log behind it: a receiver that has gone must not fill the log for long. */
    uint64_t idle_ms = wal_has_room(s->r->wal) ? PIN_IDLE_MS : PIN_DONE_MS;
    if (pin->view != NULL && (view_canceled(pin->view) || now_ms - pin->used_ms >= idle_ms ||
                              (pin->done_ms != 0 && now_ms - pin->done_ms >= PIN_DONE_MS))) {
        pin_close(s);
    } else if (pin->view != NULL && pin->done_ms != 0 && !wal_has_room(s->r->wal) &&
               everybody_has(s, pin->manifest.index)) {
        pin_close(s);
        checkpoint_want(s, true); /* now: writers wait for it */
    }
    if (in->step == INSTALL_WAITING) {
        install_write(s);
    } else if ((in->step == INSTALL_OPENING || in->step == INSTALL_FETCHING) &&
               now_ms - in->sent_ms >= INSTALL_TIMEOUT_MS) {
        install_fail(s, ERR_TIMEOUT);
    }
}

void transfer_cancel(struct shard *s)
{
    pin_close(s);
    /* A heap that is being written belongs to the image until that ends. */
    if (s->install.step != INSTALL_WRITING || s->image == NULL || !image_busy(s->image)) {
        install_clear(s);
    }
}
