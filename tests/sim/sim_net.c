/* The network: authenticated byte streams between processes, over links that delay, stall and
 * break.
 *
 * What TCP and TLS guarantee holds (bytes come in order, unchanged, once); what they can't doesn't:
 * they come late, stop in the middle, and an end that vanished may look open for long. A stream
 * direction is a *lane*: segments in flight, in order, the head of which arrives next. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/limits.h"
#include "sim/internal.h"

#define WINDOW_BYTES  (256u << 10) /* in flight and unread, like socket buffers */
#define SEGMENT_BYTES (64u << 10)
#define RTO_NS        (200 * SIM_MS)
#define RTO_MAX_NS    (3200 * SIM_MS)
#define STALL_MAX_NS  (12 * SIM_SECOND) /* then TCP gives up */
#define CONNECT_NS    (5 * SIM_SECOND)
#define LINGER_NS     SIM_SECOND
#define DELAY_NS      100000u /* defaults of a link */
#define JITTER_NS     60000u
#define RATE          250000000ull

enum segment_kind { SEG_OPEN, SEG_DATA, SEG_FIN, SEG_RESET };
struct segment {
    struct list link;
    enum segment_kind kind;
    uint64_t ready_ns;
    size_t len, at; /* at: consumed */
    uint8_t data[];
};

enum end_state { END_NONE, END_CONNECTING, END_OPENING, END_OPEN, END_CLOSING, END_GONE };

struct sim_conn;
struct env_conn {
    struct sim_conn *conn;
    int side; /* 0 connected, 1 accepted */
    enum end_state state;
    struct sim_proc *proc; /* NULL: the process is gone */
    struct sim_host *host;
    struct list link; /* process's */
    const struct env_conn_cbs *cbs;
    void *arg;
    struct env_peer peer;
    bool paused, flush, high;
    bool vanished; /* nothing goes out, nothing comes in any more */
    bool draining; /* closed by its owner with bytes queued: the kernel still sends them */
    bool reset_sent;
    struct buf out;
    /* The lane towards this end. */
    struct list flying, arrived; /* struct segment */
    uint64_t unread;             /* bytes in both */
    uint64_t last_ready_ns, stalled_since_ns, rto_ns;
    struct sim_event arrive;
    struct sim_event readable; /* in the process: look at `arrived` */
    struct sim_event closed;   /* in the process: on_close */
    struct sim_event drained;
    struct sim_event linger;
    int close_reason;
    char close_text[96];
    bool fin_sent;
};

struct sim_conn {
    struct sim *sim;
    struct list link;
    uint64_t number;
    struct env_conn end[2];
    struct sim_event syn; /* the connection request on its way */
    uint64_t syn_since_ns;
    bool syn_refused; /* on its way back */
    struct env_listener *listener;
    enum env_role expected_role;
    char expected_name[64], address[ADDRESS_BYTES_MAX + 1];
};

struct env_listener {
    struct sim_proc *proc;
    struct list link;
    char address[ADDRESS_BYTES_MAX + 1];
    int port;
    env_accept_cb cb;
    void *arg;
};

static struct env_conn *other(struct env_conn *end)
{
    return &end->conn->end[1 - end->side];
}

static struct sim_link *link_of(struct sim *sim, const struct sim_host *a, const struct sim_host *b)
{
    return &sim->links[a->index][b->index];
}

/* ---- freeing ---- */

static void segments_drop(struct list *segments)
{
    list_for_each_safe (it, next, segments) {
        list_remove(it);
        mem_free(list_entry(it, struct segment, link));
    }
}

static bool end_is_over(const struct env_conn *end)
{
    return end->state == END_NONE || end->state == END_GONE;
}

static void end_silence(struct env_conn *end)
{
    struct sim *sim = end->conn->sim;
    sim__cancel(sim, &end->arrive);
    sim__cancel(sim, &end->readable);
    sim__cancel(sim, &end->closed);
    sim__cancel(sim, &end->drained);
    segments_drop(&end->flying);
    segments_drop(&end->arrived);
    end->unread = 0;
}

/* An end that is over is only memory once the other is too: bytes may still be on their way. A dead
 * process's end stays until the process is freed, since its owner still holds it. */
static void conn_reap(struct sim_conn *conn)
{
    for (int i = 0; i < 2; i++) {
        struct env_conn *end = &conn->end[i];
        if (!end_is_over(end) || (end->proc != NULL && end->proc->dead)) {
            return;
        }
    }
    for (int i = 0; i < 2; i++) {
        struct env_conn *end = &conn->end[i];
        end_silence(end);
        sim__cancel(conn->sim, &end->linger);
        if (end->proc != NULL) {
            list_remove(&end->link);
        }
        buf_close(&end->out);
    }
    sim__cancel(conn->sim, &conn->syn);
    list_remove(&conn->link);
    mem_free(conn);
}

static void end_close(struct env_conn *end, int reason, const char *text)
{
    if (end->proc == NULL || end->proc->dead || end->state == END_GONE || end->closed.inbox) {
        return;
    }
    if (end->cbs == NULL) {
        end->state = END_GONE; /* gone before it was accepted: nobody knows it */
        end->vanished = true;
        return;
    }
    end->close_reason = reason;
    (void)snprintf(end->close_text, sizeof end->close_text, "%s", text);
    end->state = END_CLOSING;
    sim__deliver(&end->closed);
}

/* ---- lanes ---- */

static struct segment *segment_new(enum segment_kind kind, const void *data, size_t len)
{
    struct segment *s = sim__alloc(sizeof *s + len);
    s->kind = kind;
    s->len = len;
    if (len > 0) {
        memcpy(s->data, data, len);
    }
    return s;
}

/* Sends a segment towards `to`. */
static void lane_send(struct env_conn *to, struct segment *s)
{
    struct sim *sim = to->conn->sim;
    struct sim_link *link = link_of(sim, other(to)->host, to->host);
    uint64_t start = link->busy_until_ns > sim->now_ns ? link->busy_until_ns : sim->now_ns;
    link->busy_until_ns = start + (s->len + 60) * SIM_SECOND / link->bytes_per_second;
    s->ready_ns = link->busy_until_ns + link->delay_ns + sim_below(sim, link->jitter_ns + 1);
    uint64_t rto = RTO_NS;
    while (sim->loss_per_million > 0 && sim_chance(sim, sim->loss_per_million) &&
           rto <= RTO_MAX_NS) {
        s->ready_ns += rto;
        rto *= 2;
        sim->net.stalls++;
    }
    if (s->ready_ns <= to->last_ready_ns) {
        s->ready_ns = to->last_ready_ns + 1;
    }
    to->last_ready_ns = s->ready_ns;
    to->unread += s->len;
    sim->net.bytes += s->len;
    bool first = list_empty(&to->flying);
    list_push_back(&to->flying, &s->link);
    if (first) {
        sim__schedule(sim, &to->arrive, s->ready_ns);
    }
}

/* Moves what is queued onto the lane, as far as the window allows. */
static void end_pump(struct env_conn *end)
{
    struct env_conn *to = other(end);
    bool sends = end->state == END_OPEN || end->state == END_CLOSING || end->draining;
    if (!sends || end->vanished || end->fin_sent || to->state == END_NONE) {
        return;
    }
    size_t done = 0;
    while (done < end->out.len && to->unread < WINDOW_BYTES) {
        size_t n = end->out.len - done < SEGMENT_BYTES ? end->out.len - done : SEGMENT_BYTES;
        lane_send(to, segment_new(SEG_DATA, end->out.data + done, n));
        done += n;
    }
    if (done > 0) {
        buf_consume(&end->out, done);
    }
    if (end->high && end->out.len <= CONN_QUEUE_BYTES_MAX / 4) {
        end->high = false;
        if (end->state == END_OPEN && !end->proc->dead && end->cbs->on_drain != NULL) {
            sim__deliver(&end->drained);
        }
    }
    if ((end->state == END_CLOSING || end->draining) && end->out.len == 0) {
        end->fin_sent = true;
        end->draining = false;
        sim__cancel(end->conn->sim, &end->linger);
        lane_send(to, segment_new(SEG_FIN, NULL, 0));
    }
}

/* TCP of `end` gives up: it learns it, the other end doesn't. */
static void end_broken(struct env_conn *end, int reason, const char *text)
{
    end->vanished = true;
    buf_clear(&end->out);
    end_close(end, reason, text);
}

static void on_arrive(struct sim_event *event)
{
    struct env_conn *end = container_of(event, struct env_conn, arrive);
    struct sim *sim = end->conn->sim;
    struct env_conn *from = other(end);
    struct segment *s = list_entry(end->flying.next, struct segment, link);
    bool cut = link_of(sim, from->host, end->host)->cut || end->host->off;
    if (cut) {
        sim->net.blocked++;
        if (end->stalled_since_ns == 0) {
            end->stalled_since_ns = sim->now_ns;
            end->rto_ns = RTO_NS;
        }
        if (sim->now_ns - end->stalled_since_ns > STALL_MAX_NS) {
            sim->net.timeouts++;
            segments_drop(&end->flying);
            end_broken(from, ERR_TIMEOUT, "the connection timed out");
            conn_reap(end->conn);
            return;
        }
        sim__schedule(sim, event, sim->now_ns + end->rto_ns + sim_below(sim, RTO_NS));
        end->rto_ns = end->rto_ns * 2 > RTO_MAX_NS ? RTO_MAX_NS : end->rto_ns * 2;
        return;
    }
    end->stalled_since_ns = 0;
    list_remove(&s->link);
    if (!list_empty(&end->flying)) {
        struct segment *next = list_entry(end->flying.next, struct segment, link);
        sim__schedule(sim, event, next->ready_ns);
    }
    bool gone = end->vanished || end->state == END_GONE || end->state == END_NONE ||
                end->proc == NULL || end->proc->dead;
    if (gone) {
        /* The machine is up and knows no such connection. */
        bool answer =
            s->kind == SEG_DATA && !from->vanished && from->proc != NULL && !end->reset_sent;
        mem_free(s);
        if (answer) {
            segments_drop(&end->flying);
            sim__cancel(sim, &end->arrive);
            sim->net.resets++;
            end->reset_sent = true;
            lane_send(from, segment_new(SEG_RESET, NULL, 0));
        }
        conn_reap(end->conn);
        return;
    }
    list_push_back(&end->arrived, &s->link);
    sim__trace(sim, 0x500u + s->kind, end->conn->number, hash64(end->host->index, s->data, s->len));
    sim__deliver(&end->readable);
}

static void peer_fill(struct env_peer *peer, const struct sim_proc *proc)
{
    peer->role = proc->role;
    (void)snprintf(peer->name, sizeof peer->name, "%s", proc->name);
}

static void accept_arrived(struct env_conn *end)
{
    struct env_listener *l = end->conn->listener;
    if (l == NULL || l->proc != end->proc) {
        end->state = END_GONE;
        end->vanished = true;
        lane_send(other(end), segment_new(SEG_RESET, NULL, 0));
        return;
    }
    end->state = END_OPEN;
    int rv = l->cb(l->arg, end, &end->peer, &end->cbs, &end->arg);
    if (rv != 0) {
        end->conn->sim->net.refused++;
        end->state = END_GONE;
        end->vanished = true;
        lane_send(other(end), segment_new(SEG_RESET, NULL, 0));
        return;
    }
    assert(end->cbs != NULL);
}

static void data_arrived(struct env_conn *end, struct segment *s)
{
    struct sim *sim = end->conn->sim;
    while (s->at < s->len && !end->paused && end->state == END_OPEN && !end->proc->doomed) {
        /* Cut anywhere, as a real stream is. */
        size_t n = s->len - s->at;
        if (sim_below(sim, 4) == 0) {
            n = (size_t)sim_below(sim, n) + 1;
        }
        const uint8_t *data = s->data + s->at;
        s->at += n;
        end->unread -= n;
        end->cbs->on_data(end->arg, end, data, n);
    }
}

/* In the process's turn. */
static void on_readable(struct sim_event *event)
{
    struct env_conn *end = container_of(event, struct env_conn, readable);
    while (!list_empty(&end->arrived) && !end->proc->doomed) {
        struct segment *s = list_entry(end->arrived.next, struct segment, link);
        if (s->kind == SEG_DATA) {
            if (end->paused) {
                break;
            }
            if (end->state == END_OPEN) {
                data_arrived(end, s);
                if (s->at < s->len && end->state == END_OPEN) {
                    break;
                }
            }
            end->unread -= s->len - s->at;
        } else if (s->kind == SEG_OPEN && end->side == 1) {
            accept_arrived(end);
        } else if (s->kind == SEG_OPEN) {
            if (end->state == END_OPENING) {
                end->state = END_OPEN;
                lane_send(other(end), segment_new(SEG_OPEN, NULL, 0));
                if (end->cbs->on_open != NULL) {
                    end->cbs->on_open(end->arg, end);
                }
            }
        } else if (s->kind == SEG_FIN) {
            end_close(end, ERR_CLOSED, "closed by the other side");
        } else {
            end->vanished = true;
            end_close(end, ERR_IO, "connection reset by the other side");
        }
        list_remove(&s->link);
        mem_free(s);
    }
    end_pump(other(end)); /* its window may be open again */
}

static void on_closed(struct sim_event *event)
{
    struct env_conn *end = container_of(event, struct env_conn, closed);
    struct sim_conn *conn = end->conn;
    end_pump(end); /* what was queued still goes, as far as it can */
    end->state = END_GONE;
    segments_drop(&end->arrived);
    sim__cancel(conn->sim, &end->readable);
    sim__cancel(conn->sim, &end->drained);
    if (end->flush) {
        end->flush = false;
    }
    end->cbs->on_close(end->arg, end, end->close_reason, end->close_text);
    conn_reap(conn);
}

static void on_drained(struct sim_event *event)
{
    struct env_conn *end = container_of(event, struct env_conn, drained);
    end->cbs->on_drain(end->arg, end);
}

static void end_init(struct sim_conn *conn, int side)
{
    struct env_conn *end = &conn->end[side];
    end->conn = conn;
    end->side = side;
    list_init(&end->link);
    list_init(&end->flying);
    list_init(&end->arrived);
    end->arrive.cb = on_arrive;
    end->arrive.tag = 16;
    end->readable.cb = on_readable;
    end->readable.tag = 17;
    end->closed.cb = on_closed;
    end->closed.tag = 18;
    end->drained.cb = on_drained;
    end->drained.tag = 19;
}

static void end_attach(struct env_conn *end, struct sim_proc *proc)
{
    end->proc = proc;
    end->host = proc->host;
    end->readable.proc = end->closed.proc = end->drained.proc = proc;
    list_push_back(&proc->conns, &end->link);
}

/* ---- connecting ---- */

static struct env_listener *listener_find(struct sim *sim, const char *address,
                                          struct sim_host **host)
{
    *host = NULL;
    const char *colon = strrchr(address, ':');
    size_t n = colon == NULL ? strlen(address) : (size_t)(colon - address);
    for (uint32_t i = 0; i < sim->host_count; i++) {
        if (strlen(sim->hosts[i]->name) == n && memcmp(sim->hosts[i]->name, address, n) == 0) {
            *host = sim->hosts[i];
        }
    }
    if (*host == NULL || (*host)->proc == NULL || colon == NULL) {
        return NULL;
    }
    int port = (int)strtol(colon + 1, NULL, 10);
    list_for_each (it, &(*host)->proc->listeners) {
        struct env_listener *l = list_entry(it, struct env_listener, link);
        if (l->port == port) {
            return l;
        }
    }
    return NULL;
}

static void on_syn(struct sim_event *event)
{
    struct sim_conn *conn = container_of(event, struct sim_conn, syn);
    struct sim *sim = conn->sim;
    struct env_conn *end = &conn->end[0];
    if (conn->syn_refused) {
        sim->net.refused++;
        end_close(end, ERR_NOCONN, "connection refused");
        return;
    }
    struct sim_host *host;
    struct env_listener *l = listener_find(sim, conn->address, &host);
    bool cut = host == NULL || host->off || link_of(sim, end->host, host)->cut ||
               link_of(sim, host, end->host)->cut;
    if (cut) {
        sim->net.blocked++;
        if (sim->now_ns - conn->syn_since_ns >= CONNECT_NS) {
            sim->net.timeouts++;
            end_close(end, ERR_TIMEOUT, "connecting timed out");
        } else {
            sim__schedule(sim, event, sim->now_ns + SIM_SECOND);
        }
        return;
    }
    if (l == NULL) {
        conn->syn_refused = true;
        sim__schedule(sim, event, sim->now_ns + link_of(sim, host, end->host)->delay_ns);
        return;
    }
    if ((conn->expected_role != ENV_ROLE_NONE && l->proc->role != conn->expected_role) ||
        (conn->expected_name[0] != '\0' && strcmp(conn->expected_name, l->proc->name) != 0)) {
        end_close(end, ERR_TLS, "the certificate is another one's");
        return;
    }
    struct env_conn *server = &conn->end[1];
    conn->listener = l;
    end_attach(server, l->proc);
    server->state = END_OPENING;
    peer_fill(&server->peer, end->proc);
    (void)snprintf(server->peer.address, sizeof server->peer.address, "%s:%llu", end->host->name,
                   40000 + (unsigned long long)conn->number % 20000);
    peer_fill(&end->peer, l->proc);
    (void)snprintf(end->peer.address, sizeof end->peer.address, "%s", conn->address);
    end->state = END_OPENING;
    sim->net.connections++;
    /* TLS 1.3: the client is through after one more round trip, the server half of one later. */
    lane_send(end, segment_new(SEG_OPEN, NULL, 0));
}

static int conn_connect(struct env *env, const char *address, enum env_role expected_role,
                        const char *expected_name, const struct env_conn_cbs *cbs, void *arg,
                        struct env_conn **out)
{
    struct sim_proc *proc = sim_proc_of(env);
    struct sim *sim = proc->sim;
    *out = NULL;
    if (proc->dead) {
        return ERR_SHUTDOWN;
    }
    if (strrchr(address, ':') == NULL || strlen(address) > ADDRESS_BYTES_MAX) {
        return ERR_INVAL;
    }
    struct sim_conn *conn = sim__alloc(sizeof *conn);
    conn->sim = sim;
    conn->number = ++sim->conn_count;
    conn->expected_role = expected_role;
    (void)snprintf(conn->expected_name, sizeof conn->expected_name, "%s",
                   expected_name == NULL ? "" : expected_name);
    (void)snprintf(conn->address, sizeof conn->address, "%s", address);
    end_init(conn, 0);
    end_init(conn, 1);
    list_push_back(&sim->conns, &conn->link);
    struct env_conn *end = &conn->end[0];
    end_attach(end, proc);
    end->state = END_CONNECTING;
    end->cbs = cbs;
    end->arg = arg;
    conn->syn.cb = on_syn;
    conn->syn.tag = 20;
    conn->syn_since_ns = sim->now_ns;
    sim__schedule(sim, &conn->syn, sim->now_ns + 2 * DELAY_NS + sim_below(sim, DELAY_NS));
    *out = end;
    return 0;
}

static int net_listen(struct env *env, const char *address, env_accept_cb cb, void *arg,
                      struct env_listener **out, struct err_text *e)
{
    struct sim_proc *proc = sim_proc_of(env);
    *out = NULL;
    const char *colon = strrchr(address, ':');
    if (proc->dead || colon == NULL) {
        return err_set(e, ERR_INVAL, "can't listen on %s", address);
    }
    int port = (int)strtol(colon + 1, NULL, 10);
    if (port == 0) {
        port = 30000 + (int)sim_below(proc->sim, 1000);
    }
    list_for_each (it, &proc->listeners) {
        if (list_entry(it, struct env_listener, link)->port == port) {
            return err_set(e, ERR_EXISTS, "%s is in use", address);
        }
    }
    struct env_listener *l = sim__alloc(sizeof *l);
    l->proc = proc;
    l->port = port;
    l->cb = cb;
    l->arg = arg;
    list_push_back(&proc->listeners, &l->link);
    *out = l;
    return 0;
}

static void net_listener_close(struct env_listener *l)
{
    list_for_each (it, &l->proc->sim->conns) {
        struct sim_conn *conn = list_entry(it, struct sim_conn, link);
        if (conn->listener == l) {
            conn->listener = NULL;
        }
    }
    list_remove(&l->link);
    mem_free(l);
}

static int net_listener_port(struct env_listener *l)
{
    return l->port;
}

/* ---- streams ---- */

static int conn_write(struct env_conn *end, const struct slice *parts, size_t count)
{
    if (end->proc->dead || end->state == END_CLOSING || end->state == END_GONE) {
        return ERR_CLOSED;
    }
    size_t more = 0;
    for (size_t i = 0; i < count; i++) {
        more += parts[i].len;
    }
    if (end->out.len + more > CONN_QUEUE_BYTES_MAX) {
        return ERR_BUSY;
    }
    bool held = mem_fault_hold(true);
    for (size_t i = 0; i < count; i++) {
        int rv = parts[i].len == 0 ? 0 : buf_append(&end->out, parts[i].data, parts[i].len);
        assert(rv == 0);
    }
    (void)mem_fault_hold(held);
    end->high = end->high || end->out.len > CONN_QUEUE_BYTES_MAX / 4;
    end->flush = true;
    if (!end->proc->in_turn) {
        end->flush = false;
        end_pump(end);
    }
    return 0;
}

void sim_net__turn_end(struct sim_proc *proc)
{
    list_for_each (it, &proc->conns) {
        struct env_conn *end = list_entry(it, struct env_conn, link);
        if (end->flush) {
            end->flush = false;
            end_pump(end);
        }
    }
}

static size_t conn_queued(const struct env_conn *end)
{
    return end->out.len;
}

static void conn_pause(struct env_conn *end, bool paused)
{
    if (end->proc->dead || end->paused == paused) {
        return;
    }
    end->paused = paused;
    if (!paused && !list_empty(&end->arrived)) {
        sim__deliver(&end->readable);
    }
}

static void on_linger(struct sim_event *event)
{
    struct env_conn *end = container_of(event, struct env_conn, linger);
    buf_clear(&end->out);
    end->draining = false;
    if (!end->fin_sent && !end->vanished) {
        end->fin_sent = true;
        end->vanished = true;
        lane_send(other(end), segment_new(SEG_RESET, NULL, 0));
    }
}

static void conn_close(struct env_conn *end, int reason)
{
    if (end->proc->dead || end->state == END_CLOSING || end->state == END_GONE) {
        return;
    }
    bool open = end->state == END_OPEN;
    sim__cancel(end->conn->sim, &end->conn->syn);
    end_close(end, reason, err_text_of(reason));
    if (!open) {
        /* The other end, if there is one, never heard of us, or hears that it is over. */
        if (end->side == 0 && other(end)->state != END_NONE) {
            end->fin_sent = true;
            lane_send(other(end), segment_new(SEG_RESET, NULL, 0));
        }
        end->vanished = true;
        return;
    }
    end_pump(end);
    if (!end->fin_sent) {
        end->draining = true;
        end->linger.cb = on_linger;
        end->linger.tag = 21;
        sim__schedule(end->conn->sim, &end->linger, end->conn->sim->now_ns + LINGER_NS);
    }
}

static const struct env_peer *conn_peer(const struct env_conn *end)
{
    static const struct env_peer nobody = {.role = ENV_ROLE_NONE};
    return end->state == END_CONNECTING ? &nobody : &end->peer;
}

void sim_net__ops(struct env_ops *ops)
{
    ops->listen = net_listen;
    ops->listener_close = net_listener_close;
    ops->listener_port = net_listener_port;
    ops->connect = conn_connect;
    ops->conn_write = conn_write;
    ops->conn_queued = conn_queued;
    ops->conn_pause = conn_pause;
    ops->conn_close = conn_close;
    ops->conn_peer = conn_peer;
}

/* ---- life and death ---- */

static void link_reset(struct sim_link *link)
{
    link->cut = false;
    link->delay_ns = DELAY_NS;
    link->jitter_ns = JITTER_NS;
    link->bytes_per_second = RATE;
}

void sim_net__init(struct sim *sim)
{
    list_init(&sim->conns);
    sim_net_heal(sim);
}

void sim_net__host_added(struct sim_host *host)
{
    link_reset(link_of(host->sim, host, host));
}

void sim_net__close(struct sim *sim)
{
    list_for_each_safe (it, next, &sim->conns) {
        struct sim_conn *conn = list_entry(it, struct sim_conn, link);
        for (int i = 0; i < 2; i++) {
            conn->end[i].state = END_GONE;
        }
        conn_reap(conn);
    }
    assert(list_empty(&sim->conns));
}

/* The kernel closes the sockets of a killed process; a machine without power says nothing. */
void sim_net__proc_died(struct sim_proc *proc, enum sim_death how)
{
    list_for_each (it, &proc->conns) {
        struct env_conn *end = list_entry(it, struct env_conn, link);
        struct env_conn *to = other(end);
        sim__cancel(proc->sim, &end->conn->syn);
        bool told = end->vanished || end->fin_sent || to->state == END_NONE;
        end->state = END_GONE;
        end->vanished = true;
        end->draining = false;
        end_silence(end);
        sim__cancel(proc->sim, &end->linger);
        if (how == SIM_SIGKILL && !told && to->host != NULL) {
            lane_send(to, segment_new(SEG_RESET, NULL, 0));
        } else if (how == SIM_POWER_LOSS && !list_empty(&to->flying) &&
                   sim_chance(proc->sim, 300000)) {
            segments_drop(&to->flying); /* lost on the way, and nobody sends them again */
            sim__cancel(proc->sim, &to->arrive);
        }
    }
}

void sim_net__proc_freed(struct sim_proc *proc)
{
    list_for_each_safe (it, next, &proc->listeners) {
        net_listener_close(list_entry(it, struct env_listener, link));
    }
    list_for_each_safe (it, next, &proc->conns) {
        struct env_conn *end = list_entry(it, struct env_conn, link);
        list_remove(&end->link);
        end->proc = NULL;
        end->readable.proc = end->closed.proc = end->drained.proc = NULL;
        conn_reap(end->conn);
    }
}

/* ---- what a nemesis calls ---- */

void sim_net_get_stats(const struct sim *sim, struct sim_net_stats *out)
{
    *out = sim->net;
}

void sim_net_cut(struct sim_host *from, struct sim_host *to, bool cut)
{
    link_of(from->sim, from, to)->cut = cut;
}

void sim_net_heal(struct sim *sim)
{
    sim->loss_per_million = 0;
    for (uint32_t a = 0; a < SIM_HOSTS_MAX; a++) {
        for (uint32_t b = 0; b < SIM_HOSTS_MAX; b++) {
            link_reset(&sim->links[a][b]);
        }
    }
}

void sim_net_loss(struct sim *sim, uint32_t per_million)
{
    sim->loss_per_million = per_million;
}

void sim_net_link(struct sim_host *from, struct sim_host *to, uint64_t delay_ns, uint64_t jitter_ns,
                  uint64_t bytes_per_second)
{
    struct sim_link *link = link_of(from->sim, from, to);
    link->delay_ns = delay_ns;
    link->jitter_ns = jitter_ns;
    link->bytes_per_second = bytes_per_second;
}

static struct sim_conn *conn_pick(struct sim *sim, const struct sim_host *host,
                                  const struct sim_host *peer)
{
    uint64_t count = 0;
    struct sim_conn *picked = NULL;
    list_for_each (it, &sim->conns) {
        struct sim_conn *conn = list_entry(it, struct sim_conn, link);
        bool open = true;
        for (int i = 0; i < 2; i++) {
            const struct env_conn *end = &conn->end[i];
            open = open && end->state == END_OPEN && !end->vanished && end->proc != NULL &&
                   !end->proc->dead;
        }
        bool ours = host == NULL || conn->end[0].host == host || conn->end[1].host == host;
        ours = ours && (peer == NULL || conn->end[0].host == peer || conn->end[1].host == peer);
        if (open && ours && sim_below(sim, ++count) == 0) {
            picked = conn;
        }
    }
    return picked;
}

static bool conn_reset(struct sim *sim, struct sim_conn *conn)
{
    if (conn == NULL) {
        return false;
    }
    sim->net.resets++;
    for (int i = 0; i < 2; i++) {
        struct env_conn *end = &conn->end[i];
        end->vanished = true;
        segments_drop(&end->flying);
        sim__cancel(sim, &end->arrive);
        buf_clear(&end->out);
        end_close(end, ERR_IO, "connection reset");
    }
    return true;
}

bool sim_net_reset_one(struct sim *sim, struct sim_host *host)
{
    return conn_reset(sim, conn_pick(sim, host, NULL));
}

bool sim_net_reset_between(struct sim_host *a, struct sim_host *b)
{
    return conn_reset(a->sim, conn_pick(a->sim, a, b));
}

bool sim_net_half_open_one(struct sim *sim, struct sim_host *host)
{
    struct sim_conn *conn = conn_pick(sim, host, NULL);
    if (conn == NULL) {
        return false;
    }
    int side = (int)sim_below(sim, 2);
    struct env_conn *end = &conn->end[side];
    end->vanished = true;
    segments_drop(&other(end)->flying);
    sim__cancel(sim, &other(end)->arrive);
    other(end)->unread = 0;
    list_for_each (it, &other(end)->arrived) {
        const struct segment *s = list_entry(it, struct segment, link);
        other(end)->unread += s->len - s->at;
    }
    end_close(end, ERR_IO, "connection lost");
    return true;
}
