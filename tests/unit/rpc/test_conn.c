/* Connections, servers and links over pipes in memory and a clock set by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "fake_env.h"
#include "rpc/frame.h"

struct side {
    struct rpc_conn *conn;
    int ready;
    int closed;
    int reason;
    int drained;
    char text[512];
    uint64_t frames;
    uint64_t bytes;
    uint64_t last_id;
    bool echo;
    bool greet;       /* the server sends a frame from on_ready */
    bool pause_each;  /* pauses after each frame */
    bool close_first; /* closes in on_frame */
    int refuse;
};

struct fixture {
    struct fake_env f;
    struct rpc_server *server;
    struct rpc_identity self;
    struct rpc_identity client_self;
    struct side in;
    struct side out;
    bool down;
};

static int on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                    const struct msg_hello_ok *ok, struct err_text *e)
{
    struct side *s = arg;
    assert_true((hello == NULL) != (ok == NULL));
    s->conn = conn;
    if (s->greet) {
        struct frame_header h = {.kind = KIND_GOAWAY};
        struct slice part = slice_of("\1\0\0\0", 4);
        assert_int_equal(rpc_send(conn, &h, &part, 1), 0);
    }
    if (s->refuse != 0) {
        return err_set(e, s->refuse, "not you");
    }
    s->ready++;
    return 0;
}

static void on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                     struct slice body)
{
    struct side *s = arg;
    s->frames++;
    s->bytes += body.len;
    s->last_id = header->request_id;
    if (s->echo) {
        struct frame_header h = {.kind = KIND_ADMIN_RESULT, .request_id = header->request_id};
        (void)rpc_send(conn, &h, &body, 1);
    }
    if (s->pause_each) {
        rpc_pause(conn, true);
    }
    if (s->close_first) {
        rpc_close(conn, ERR_SHUTDOWN);
    }
}

static void on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct side *s = arg;
    (void)conn;
    s->conn = NULL;
    s->closed++;
    s->reason = reason;
    (void)snprintf(s->text, sizeof s->text, "%s", text);
}

static void on_drain(void *arg, struct rpc_conn *conn)
{
    (void)conn;
    ((struct side *)arg)->drained++;
}

static const struct rpc_cbs cbs = {
    .on_ready = on_ready, .on_frame = on_frame, .on_drain = on_drain, .on_close = on_close};

static void fixture_open(struct fixture *x)
{
    struct err_text e;
    memset(x, 0, sizeof *x);
    fake_env_open(&x->f);
    (void)snprintf(x->self.name, sizeof x->self.name, "n1");
    (void)snprintf(x->client_self.name, sizeof x->client_self.name, "alice");
    assert_int_equal(rpc_server_open(&x->f.env, "n1:7", &x->self, &cbs, &x->in, &x->server, &e), 0);
}

static void on_down(void *arg)
{
    *(bool *)arg = true;
}

static void fixture_close(struct fixture *x)
{
    if (x->out.conn != NULL) {
        rpc_close(x->out.conn, ERR_CLOSED);
    }
    rpc_server_close(x->server, on_down, &x->down);
    fake_run(&x->f, 10);
    assert_true(x->down);
    fake_env_close(&x->f);
}

static void client_open(struct fixture *x)
{
    assert_int_equal(rpc_connect(&x->f.env, "n1:7", "n1", RPC_LANE_CLIENT, &x->client_self, &cbs,
                                 &x->out, &x->out.conn),
                     0);
    assert_int_equal(rpc_send(x->out.conn, &(struct frame_header){.kind = KIND_PING}, NULL, 0),
                     ERR_CLOSED);
    fake_run(&x->f, 1);
    assert_int_equal(x->out.ready, 1);
    assert_int_equal(x->in.ready, 1);
}

static void request(struct fixture *x, uint64_t id, const void *body, size_t len)
{
    struct frame_header h = {.kind = KIND_ADMIN, .request_id = id};
    struct slice part = slice_of(body, len);
    assert_int_equal(rpc_send(x->out.conn, &h, &part, 1), 0);
}

static void frames_arrive_whole_however_they_are_cut(void **state)
{
    (void)state;
    static uint8_t body[5000];
    const size_t chunks[] = {1, 7, 31, 32, 33, 64, 4999, 0};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        struct fixture x;
        fixture_open(&x);
        x.in.echo = true;
        x.f.chunk_max = chunks[i];
        client_open(&x);
        request(&x, 1, body, 0);
        request(&x, 2, body, 1);
        request(&x, 3, body, sizeof body);
        request(&x, 4, body, 33);
        fake_run(&x.f, 1);
        assert_int_equal(x.in.frames, 4);
        assert_int_equal(x.out.frames, 4);
        assert_int_equal(x.out.bytes, sizeof body + 34);
        assert_int_equal(x.out.last_id, 4);
        fixture_close(&x);
        assert_int_equal(x.in.closed, 1);
        assert_int_equal(x.out.closed, 1);
        assert_int_equal(x.out.reason, ERR_CLOSED);
    }
}

static void what_on_ready_sends_follows_hello_ok(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    x.in.greet = true;
    client_open(&x);
    assert_int_equal(x.out.frames, 1);
    fixture_close(&x);
}

static void a_refusal_in_on_ready_reaches_the_other_side(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    x.in.greet = true;
    x.in.refuse = ERR_WRONGCLUSTER;
    assert_int_equal(rpc_connect(&x.f.env, "n1:7", "n1", RPC_LANE_CLIENT, &x.client_self, &cbs,
                                 &x.out, &x.out.conn),
                     0);
    fake_run(&x.f, 1);
    assert_int_equal(x.out.ready, 0);
    assert_int_equal(x.out.reason, ERR_WRONGCLUSTER);
    assert_non_null(strstr(x.out.text, "refused by n1:7: not you"));
    assert_int_equal(x.in.closed, 1);
    assert_int_equal(x.in.reason, ERR_WRONGCLUSTER);
    fixture_close(&x);
}

static void a_pause_holds_frames_back_in_order(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    x.in.pause_each = true;
    x.f.chunk_max = 50; /* cuts frames, and holds more than one */
    client_open(&x);
    for (uint64_t i = 1; i <= 20; i++) {
        request(&x, i, "1234567890", i % 11);
    }
    for (uint64_t i = 1; i <= 20; i++) {
        fake_run(&x.f, 1);
        assert_int_equal(x.in.frames, i);
        assert_int_equal(x.in.last_id, i);
        fake_run(&x.f, 1);
        assert_int_equal(x.in.frames, i);
        rpc_pause(x.in.conn, false);
        rpc_pause(x.in.conn, true);
        fake_run(&x.f, 1);
        assert_int_equal(x.in.frames, i);
        rpc_pause(x.in.conn, false);
    }
    fixture_close(&x);
}

static void closing_in_on_frame_ends_delivery(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    x.in.close_first = true;
    client_open(&x);
    request(&x, 1, "a", 1);
    request(&x, 2, "b", 1);
    fake_run(&x.f, 1);
    assert_int_equal(x.in.frames, 1);
    assert_int_equal(x.in.reason, ERR_SHUTDOWN);
    assert_int_equal(x.out.closed, 1);
    fixture_close(&x);
}

static void silence_is_pinged(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    client_open(&x);
    fake_run(&x.f, 60000); /* both answer pings */
    assert_int_equal(x.out.closed, 0);
    struct rpc_server_stats stats;
    rpc_server_stats(x.server, &stats);
    assert_true(stats.frames_in > 5);
    assert_true(stats.frames_in < 40);
    fixture_close(&x);
}

/* A peer that says HELLO and never again anything. */
static void is_ended_after(enum rpc_lane lane, enum env_role role, uint64_t ms)
{
    struct fixture x;
    fixture_open(&x);
    x.f.client_peer.role = role;
    uint8_t bytes[256];
    struct msg_hello m = {
        .wire_major = RPC_WIRE_MAJOR, .lane = (uint8_t)lane, .name = slice_of("alice", 5)};
    struct buf body = {0};
    assert_int_equal(message_encode_hello(&m, &body), 0);
    frame_pack(&(struct frame_header){.length = (uint32_t)body.len, .kind = KIND_HELLO}, bytes);
    memcpy(bytes + FRAME_HEADER_BYTES, body.data, body.len);
    struct env_conn *raw = fake_raw(&x.f);
    fake_raw_send(raw, bytes, FRAME_HEADER_BYTES + body.len);
    buf_close(&body);
    fake_run(&x.f, ms - 100);
    assert_int_equal(x.in.ready, 1);
    assert_int_equal(x.in.closed, 0);
    fake_run(&x.f, ms / 3 + 200);
    assert_int_equal(x.in.closed, 1);
    assert_int_equal(x.in.reason, ERR_TIMEOUT);
    assert_true(fake_raw_closed(raw));
    fake_raw_close(raw);
    fixture_close(&x);
}

static void a_silent_peer_is_given_up_sooner_by_a_node(void **state)
{
    (void)state;
    is_ended_after(RPC_LANE_CLIENT, ENV_ROLE_USER, 6000);
    is_ended_after(RPC_LANE_BULK, ENV_ROLE_NODE, 6000);
    is_ended_after(RPC_LANE_RAFT, ENV_ROLE_NODE, 2000);
}

static void no_hello_within_5_s_ends_it(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    struct env_conn *raw = fake_raw(&x.f);
    fake_raw_send(raw, "half a header", 13);
    fake_run(&x.f, 4999);
    assert_false(fake_raw_closed(raw));
    fake_run(&x.f, 2);
    assert_true(fake_raw_closed(raw));
    assert_int_equal(x.in.reason, ERR_TIMEOUT);
    fake_raw_close(raw);
    fixture_close(&x);
}

/* The other machine loses power in the middle of the handshake: nobody will ever say so. */
static void no_connection_within_5_s_ends_the_attempt(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    x.f.connect_hangs = true;
    assert_int_equal(rpc_connect(&x.f.env, "n1:7", "n1", RPC_LANE_CLIENT, &x.client_self, &cbs,
                                 &x.out, &x.out.conn),
                     0);
    fake_run(&x.f, 4999);
    assert_int_equal(x.out.closed, 0);
    fake_run(&x.f, 2);
    assert_int_equal(x.out.closed, 1);
    assert_int_equal(x.out.reason, ERR_TIMEOUT);
    assert_int_equal(x.out.ready, 0);
    fixture_close(&x);
}

static void an_answer_that_cannot_be_queued_closes_the_connection(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    x.in.echo = true;
    client_open(&x);
    request(&x, 1, "a", 1);
    x.f.write_fails = true;
    fake_run(&x.f, 1);
    assert_int_equal(x.in.closed, 1);
    assert_int_equal(x.in.reason, ERR_BUSY);
    x.f.write_fails = false;
    fixture_close(&x);
}

static void a_frame_over_the_limit_is_not_sent(void **state)
{
    (void)state;
    static uint8_t body[FRAME_BYTES_MAX + 1];
    struct fixture x;
    fixture_open(&x);
    client_open(&x);
    struct frame_header h = {.kind = KIND_ADMIN, .request_id = 1};
    struct slice part = slice_of(body, sizeof body);
    assert_int_equal(rpc_send(x.out.conn, &h, &part, 1), ERR_TOOBIG);
    part.len--;
    assert_int_equal(rpc_send(x.out.conn, &h, &part, 1), 0);
    assert_int_equal(rpc_send_error(x.out.conn, 3, ERR_NOTLEADER, 1, 2, 3, "text"), 0);
    fake_run(&x.f, 1);
    assert_int_equal(x.in.frames, 2);
    fixture_close(&x);
}

static void count_conn(void *arg, struct rpc_conn *conn)
{
    (void)conn;
    ++*(int *)arg;
}

static void the_server_counts_and_lists_its_connections(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x);
    client_open(&x);
    struct env_conn *raw = fake_raw(&x.f);
    int count = 0;
    rpc_server_each(x.server, count_conn, &count);
    assert_int_equal(count, 1); /* the raw one hasn't said hello */
    struct rpc_server_stats stats;
    rpc_server_stats(x.server, &stats);
    assert_int_equal(stats.accepted, 2);
    assert_int_equal(stats.open, 2);
    fake_raw_close(raw);
    fake_run(&x.f, 1);
    rpc_server_stats(x.server, &stats);
    assert_int_equal(stats.open, 1);
    rpc_server_stop(x.server);
    assert_int_equal(rpc_server_port(x.server), ERR_CLOSED);
    fixture_close(&x);
}

static void a_link_backs_off_and_returns(void **state)
{
    (void)state;
    struct fixture x;
    struct rpc_link *link;
    fixture_open(&x);
    x.f.connect_fails = true;
    assert_int_equal(
        rpc_link_open(&x.f.env, "n1:7", "n1", RPC_LANE_CLIENT, &x.client_self, &cbs, &x.out, &link),
        0);
    fake_run(&x.f, 60000);
    assert_true(x.out.closed >= 60000 / 2000);
    assert_true(x.out.closed <= 60000 / 1000 + 8);
    assert_null(rpc_link_conn(link));
    x.f.connect_fails = false;
    fake_run(&x.f, 2001);
    assert_non_null(rpc_link_conn(link));
    assert_int_equal(x.out.ready, 1);
    rpc_close(x.in.conn, ERR_SHUTDOWN); /* it was not up for long: the pause stays long */
    fake_run(&x.f, 1);
    assert_null(rpc_link_conn(link));
    fake_run(&x.f, 2001);
    assert_int_equal(x.out.ready, 2);
    fake_run(&x.f, 1500);
    rpc_close(x.in.conn, ERR_SHUTDOWN);
    fake_run(&x.f, 51); /* it was: the pause is short again */
    assert_int_equal(x.out.ready, 3);
    int closed = x.out.closed;
    rpc_link_close(link);
    fake_run(&x.f, 100);
    assert_int_equal(x.out.closed, closed); /* no callback afterwards */
    x.out.conn = NULL;
    fixture_close(&x);
    assert_int_equal(rpc_link_open(&x.f.env,
                                   "a-name-that-is-far-too-long-for-any-address-that-we-have-ever-"
                                   "seen-and-then-some-more-of-it-until-the-limit-is-passed-"
                                   "certainly:7000",
                                   NULL, RPC_LANE_CLIENT, &x.client_self, &cbs, &x.out, &link),
                     ERR_INVAL);
}

/* A conversation with allocation number n failing: everything ends in order, and nothing leaks. */
static void each_failed_allocation_ends_in_order(void **state)
{
    (void)state;
    static uint8_t body[3000];
    for (long n = 0;; n++) {
        struct fixture x;
        fixture_open(&x);
        x.in.echo = true;
        x.in.greet = false;
        x.f.chunk_max = 100;
        mem_fault(n, 1);
        int rv = rpc_connect(&x.f.env, "n1:7", "n1", RPC_LANE_CLIENT, &x.client_self, &cbs, &x.out,
                             &x.out.conn);
        struct rpc_conn *keep = x.out.conn;
        fake_run(&x.f, 1);
        if (rv == 0 && x.out.closed == 0) {
            struct frame_header h = {.kind = KIND_ADMIN, .request_id = 1};
            struct slice part = slice_of(body, sizeof body);
            (void)rpc_send(keep, &h, &part, 1);
            (void)rpc_send_error(keep, 2, ERR_BUSY, 0, 0, 0, "x");
            fake_run(&x.f, 1);
        }
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        fixture_close(&x);
        if (hits == 0) {
            assert_int_equal(x.out.frames, 2);
            return;
        }
        assert_true(rv == 0 || rv == ERR_NOMEM);
        assert_true(n < 1000);
    }
}

static int group_open(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_arrive_whole_however_they_are_cut),
        cmocka_unit_test(what_on_ready_sends_follows_hello_ok),
        cmocka_unit_test(a_refusal_in_on_ready_reaches_the_other_side),
        cmocka_unit_test(a_pause_holds_frames_back_in_order),
        cmocka_unit_test(closing_in_on_frame_ends_delivery),
        cmocka_unit_test(silence_is_pinged),
        cmocka_unit_test(a_silent_peer_is_given_up_sooner_by_a_node),
        cmocka_unit_test(no_hello_within_5_s_ends_it),
        cmocka_unit_test(no_connection_within_5_s_ends_the_attempt),
        cmocka_unit_test(an_answer_that_cannot_be_queued_closes_the_connection),
        cmocka_unit_test(a_frame_over_the_limit_is_not_sent),
        cmocka_unit_test(the_server_counts_and_lists_its_connections),
        cmocka_unit_test(a_link_backs_off_and_returns),
        cmocka_unit_test(each_failed_allocation_ends_in_order),
    };
    return cmocka_run_group_tests(tests, group_open, NULL);
}
