/* A hostile peer of a server, over a pipe in memory: arbitrary bytes, arbitrarily cut, with a valid
 * HELLO before them or not, while the owner answers, pauses and closes. Nothing may crash or leak,
 * and the owner sees only frames of its lane. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "fake_env.h"
#include "rpc/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct owner {
    struct rpc_conn *conn;
    uint8_t mood;
    int ready;
    int closed;
    bool down;
};

static int on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                    const struct msg_hello_ok *ok, struct err_text *e)
{
    struct owner *o = arg;
    assert(hello != NULL && ok == NULL);
    o->conn = conn;
    o->ready++;
    return (o->mood & 8) != 0 ? err_set(e, ERR_DENIED, "no") : 0;
}

static void on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                     struct slice body)
{
    struct owner *o = arg;
    assert(o->ready == 1 && o->closed == 0);
    assert(header->length == body.len && body.len <= FRAME_BYTES_MAX);
    assert(message_known(header->kind));
    char text[128];
    (void)message_print(header->kind, body, text, sizeof text);
    struct frame_header h = {.kind = KIND_ADMIN_RESULT, .request_id = header->request_id};
    (void)rpc_send(conn, &h, &body, 1);
    if ((o->mood & 1) != 0) {
        rpc_pause(conn, true);
    }
    if ((o->mood & 2) != 0 && header->request_id == 1) {
        rpc_close(conn, ERR_SHUTDOWN);
    }
}

static void on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct owner *o = arg;
    (void)conn;
    assert(reason < 0 && text != NULL);
    o->conn = NULL;
    o->closed++;
}

static const struct rpc_cbs cbs = {
    .on_ready = on_ready, .on_frame = on_frame, .on_close = on_close};

static void on_down(void *arg)
{
    ((struct owner *)arg)->down = true;
}

static void say_hello(struct env_conn *raw, uint8_t lane)
{
    struct msg_hello m = {.wire_major = RPC_WIRE_MAJOR, .lane = lane, .name = slice_of("alice", 5)};
    uint8_t head[FRAME_HEADER_BYTES];
    struct buf body = {0};
    int rv = message_encode_hello(&m, &body);
    assert(rv == 0);
    frame_pack(&(struct frame_header){.length = (uint32_t)body.len, .kind = KIND_HELLO}, head);
    fake_raw_send(raw, head, sizeof head);
    fake_raw_send(raw, body.data, body.len);
    buf_close(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    struct fake_env f;
    struct owner o = {.mood = data[0]};
    struct rpc_identity self = {.name = "n1"};
    struct rpc_server *server;
    log_set_level(LOG_OFF);
    fake_env_open(&f);
    f.chunk_max = data[1];
    int rv = rpc_server_open(&f.env, "n1:7", &self, &cbs, &o, &server, NULL);
    assert(rv == 0);
    f.client_peer.role = (data[0] & 32) != 0 ? ENV_ROLE_NODE : ENV_ROLE_USER;
    struct env_conn *raw = fake_raw(&f);
    assert(raw != NULL);
    if ((data[0] & 4) != 0) {
        say_hello(raw, (data[0] & 32) != 0 ? data[0] >> 6 : 0);
    }
    fake_raw_send(raw, data + 2, size - 2);
    fake_run(&f, 1);
    for (int i = 0; i < 8 && o.conn != NULL; i++) {
        rpc_pause(o.conn, false);
        fake_run(&f, 1);
    }
    if ((data[0] & 16) != 0) {
        if (o.conn != NULL) {
            o.mood &= (uint8_t)~1u; /* a connection that its owner paused isn't called idle */
            rpc_pause(o.conn, false);
        }
        fake_run(&f, 30000);
        assert(o.closed == 1); /* it said nothing more */
    }
    fake_raw_close(raw);
    rpc_server_close(server, on_down, &o);
    fake_run(&f, 10);
    assert(o.down && o.closed == 1);
    fake_env_close(&f);
    return 0;
}
