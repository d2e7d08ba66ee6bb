/* The same load on etcd: one gRPC Put (or linearizable Range) at a time a client, over HTTP/2 and
 * TLS with a client certificate. --target host:port,...: client i uses endpoint i mod n. The few
 * fields of etcd's rpc.proto that are needed are encoded by hand: PutRequest{1: key, 2: value},
 * RangeRequest{1: key}, TxnRequest{1: Compare{1: GREATER, 2: VERSION, 3: key, 4: 0 (left out)},
 * 2: RequestOp{2: PutRequest}...}. txn: if one key exists, put it and another one. */
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/fibers.h"
#include "bench/harness.h"
#include "bench/tls_client.h"

static struct bench_opts opts;

struct call {
    SSL *ssl;
    nghttp2_session *session;
    uint8_t *body;
    size_t len, sent;
    bool done, ok;
};

static ssize_t send_cb(nghttp2_session *s, const uint8_t *data, size_t len, int flags, void *arg)
{
    struct call *call = arg;
    (void)s;
    (void)flags;
    return tls_client_write(call->ssl, data, len) ? (ssize_t)len : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int header_cb(nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *arg)
{
    struct call *call = arg;
    (void)s;
    (void)frame;
    (void)flags;
    if (name_len == 11 && memcmp(name, "grpc-status", 11) == 0) {
        call->ok = value_len == 1 && value[0] == '0';
    }
    return 0;
}

static int close_cb(nghttp2_session *s, int32_t stream, uint32_t error, void *arg)
{
    struct call *call = arg;
    (void)s;
    (void)stream;
    call->done = true;
    call->ok = call->ok && error == 0;
    return 0;
}

static ssize_t body_cb(nghttp2_session *s, int32_t stream, uint8_t *buf, size_t room,
                       uint32_t *flags, nghttp2_data_source *source, void *arg)
{
    struct call *call = arg;
    (void)s;
    (void)stream;
    (void)source;
    size_t n = call->len - call->sent < room ? call->len - call->sent : room;
    memcpy(buf, call->body + call->sent, n);
    call->sent += n;
    if (call->sent == call->len) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return (ssize_t)n;
}

static size_t varint(uint8_t *out, size_t value)
{
    size_t n = 0;
    while (value >= 128) {
        out[n++] = (uint8_t)(value | 128);
        value >>= 7;
    }
    out[n++] = (uint8_t)value;
    return n;
}

static size_t field_bytes(uint8_t *out, uint8_t number, const void *data, size_t len)
{
    out[0] = (uint8_t)(number << 3 | 2);
    size_t at = 1 + varint(out + 1, len);
    memcpy(out + at, data, len);
    return at + len;
}

/* PutRequest, or without a value RangeRequest. */
static size_t key_value(uint8_t *out, const char *key, const void *value, size_t value_len)
{
    size_t at = field_bytes(out, 1, key, strlen(key));
    return value == NULL ? at : at + field_bytes(out + at, 2, value, value_len);
}

static size_t txn(uint8_t *out, uint8_t *scratch, const char *const keys[2], const void *value,
                  size_t value_len)
{
    static const uint8_t greater_version[] = {1 << 3, 1, 2 << 3, 0};
    memcpy(scratch, greater_version, sizeof greater_version);
    size_t len = sizeof greater_version;
    len += field_bytes(scratch + len, 3, keys[0], strlen(keys[0]));
    size_t at = field_bytes(out, 1, scratch, len);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *put = scratch + value_len + 64;
        size_t put_len = key_value(put, keys[i], value, value_len);
        len = field_bytes(scratch, 2, put, put_len);
        at += field_bytes(out + at, 2, scratch, len);
    }
    return at;
}

/* The message of `len` bytes stands at call->body + 5. */
static bool request(struct call *call, const char *path, size_t len)
{
#define HEADER(n, v) {(uint8_t *)(n), (uint8_t *)(v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE}
    nghttp2_nv headers[] = {HEADER(":method", "POST"),
                            HEADER(":scheme", "https"),
                            HEADER(":path", path),
                            HEADER(":authority", "localhost"),
                            HEADER("content-type", "application/grpc"),
                            HEADER("te", "trailers")};
    size_t at = 5 + len;
    call->body[0] = 0;
    for (unsigned i = 0; i < 4; i++) {
        call->body[1 + i] = (uint8_t)((at - 5) >> (24 - 8 * i));
    }
    call->len = at;
    call->sent = 0;
    call->done = call->ok = false;
    nghttp2_data_provider provider = {.read_callback = body_cb};
    if (nghttp2_submit_request(call->session, NULL, headers, sizeof headers / sizeof headers[0],
                               &provider, NULL) < 0) {
        return false;
    }
    while (!call->done) {
        uint8_t data[16384];
        if (nghttp2_session_send(call->session) != 0) {
            return false;
        }
        size_t n = tls_client_read(call->ssl, data, sizeof data);
        if (n == 0 || nghttp2_session_mem_recv(call->session, data, n) != (ssize_t)n) {
            return false;
        }
    }
    return call->ok;
}

static void run(unsigned id)
{
    struct call call = {0};
    struct bench_opts mine = opts;
    nghttp2_session_callbacks *callbacks;
    char *targets = strdup(opts.target);
    char *rest = NULL;
    const char *list[16];
    unsigned count = 0;
    for (char *t = strtok_r(targets, ",", &rest); t != NULL && count < 16;
         t = strtok_r(NULL, ",", &rest)) {
        list[count++] = t;
    }
    mine.target = count == 0 ? NULL : list[id % count];
    call.ssl = count == 0 ? NULL : tls_client_connect(&mine);
    free(targets);
    if (call.ssl == NULL) {
        bench_failed(id, "etcd: no connection");
        return;
    }
    fibers_watch(SSL_get_fd(call.ssl));
    call.body = malloc(4 * (opts.bytes + 256));
    uint8_t *scratch = malloc(4 * (opts.bytes + 256));
    char *value = malloc(opts.bytes);
    memset(value, 'x', opts.bytes);
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_send_callback(callbacks, send_cb);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, header_cb);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, close_cb);
    nghttp2_session_client_new(&call.session, callbacks, &call);
    nghttp2_submit_settings(call.session, NGHTTP2_FLAG_NONE, NULL, 0);
    bool put = strcmp(opts.operation, "put") == 0;
    bool get = strcmp(opts.operation, "get") == 0;
    for (unsigned i = 0; !bench_stopping(); i++) {
        char key[32];
        char other[32];
        const char *const keys[2] = {key, other};
        (void)snprintf(key, sizeof key, "k%u:%u", id, i % opts.keys);
        (void)snprintf(other, sizeof other, "k%u:%u", id, (i + 1) % opts.keys);
        bool set = put || i < opts.keys; /* all keys exist before anything else is measured */
        uint64_t started = bench_now_ns();
        const char *path = set   ? "/etcdserverpb.KV/Put"
                           : get ? "/etcdserverpb.KV/Range"
                                 : "/etcdserverpb.KV/Txn";
        size_t len = set || get ? key_value(call.body + 5, key, set ? value : NULL, opts.bytes)
                                : txn(call.body + 5, scratch, keys, value, opts.bytes);
        if (!request(&call, path, len)) {
            bench_failed(id, "etcd: request failed");
            break;
        }
        if (put || !set) {
            bench_done(id, started, 1);
        }
    }
    free(call.body);
    free(scratch);
    free(value);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"put", "get", "txn", NULL};
    (void)bench_parse(argc, argv, names, &opts);
    tls_client_init(&opts, "h2");
    fibers_start(opts.clients, run);
    _exit(bench_window(&opts, "etcd"));
}
