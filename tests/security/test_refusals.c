/* Whoever is not entitled gets nothing but a refusal, and the node goes on: a server on a thread of
 * its own, hostile clients made of plain sockets and plain OpenSSL. After each of them a good
 * client must be served. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/env_uv.h"
#include "base/limits.h"
#include "base/log.h"
#include "certs.h"
#include "rpc/frame.h"
#include "rpc/tls.h"
#include "support/dir.h"

static struct dir dir;
static struct test_ca ca;
static struct test_ca other_ca;
static struct env *server_env;
static struct rpc_server *server;
static struct rpc_identity self;
static int port;
static pthread_t thread;

/* ---- the log ---- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[1 << 20];
static size_t log_len;

static void log_keep(void *arg, enum log_level level, const char *line)
{
    (void)arg;
    (void)level;
    size_t n = strlen(line);
    pthread_mutex_lock(&log_lock);
    if (log_len + n + 2 < sizeof log_text) {
        memcpy(log_text + log_len, line, n);
        log_len += n;
        log_text[log_len++] = '\n';
        log_text[log_len] = '\0';
    }
    pthread_mutex_unlock(&log_lock);
}

static void log_forget(void)
{
    pthread_mutex_lock(&log_lock);
    log_len = 0;
    log_text[0] = '\0';
    pthread_mutex_unlock(&log_lock);
}

static int log_count(const char *part)
{
    int n = 0;
    pthread_mutex_lock(&log_lock);
    for (const char *at = log_text; (at = strstr(at, part)) != NULL; at++) {
        n++;
    }
    pthread_mutex_unlock(&log_lock);
    return n;
}

/* One line that names the peer's address and the cause; waits for it up to 10 s. */
static void assert_refusal_logged(const char *cause)
{
    for (int i = 0; i < 10000 && log_count(cause) == 0; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (log_count(cause) != 1 || log_count("WARN") != 1) {
        print_error("log, wanted once \"%s\":\n%s", cause, log_text);
    }
    assert_int_equal(log_count(cause), 1);
    assert_int_equal(log_count("WARN"), 1);
    assert_int_equal(log_count("peer=127.0.0.1:"), 1);
}

/* ---- the server ---- */

static int on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                    const struct msg_hello_ok *ok, struct err_text *e)
{
    (void)arg;
    (void)conn;
    (void)hello;
    (void)ok;
    (void)e;
    return 0;
}

static void on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                     struct slice body)
{
    (void)arg;
    struct frame_header h = {.kind = KIND_ADMIN_RESULT, .request_id = header->request_id};
    (void)rpc_send(conn, &h, &body, 1);
}

static void on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    (void)arg;
    (void)conn;
    (void)reason;
    (void)text;
}

static const struct rpc_cbs cbs = {
    .on_ready = on_ready, .on_frame = on_frame, .on_close = on_close};

static void *run(void *arg)
{
    env_uv_run(arg);
    return NULL;
}

static const char *path_of(const char *name, const char *ending)
{
    static char paths[8][DIR_PATH_BYTES];
    static int next;
    char file[64];
    (void)snprintf(file, sizeof file, "%s.%s", name, ending);
    next = (next + 1) % 8;
    return dir_path(&dir, file, paths[next]);
}

static void cert(const struct test_ca *by, const char *name, const char *san, int usage,
                 long until_s)
{
    test_cert_write(by, san, usage, -86400, until_s, path_of(name, "crt"), path_of(name, "key"));
}

static int group_open(void **state)
{
    (void)state;
    struct err_text e;
    (void)signal(SIGPIPE, SIG_IGN); /* of these clients; the server's thread blocks it itself */
    dir_open(&dir);
    test_ca_open(&ca, "cairn test CA");
    test_ca_open(&other_ca, "another CA");
    test_ca_write(&ca, path_of("ca", "crt"));
    cert(&ca, "n1", "URI:cairn://node/n1", CERT_SERVER | CERT_CLIENT, 86400);
    cert(&ca, "alice", "URI:cairn://user/alice", CERT_CLIENT, 86400);
    cert(&ca, "expired", "URI:cairn://user/alice", CERT_CLIENT, -3600);
    cert(&ca, "nosan", "DNS:alice", CERT_CLIENT, 86400);
    cert(&ca, "rolesan", "URI:cairn://root/alice", CERT_CLIENT, 86400);
    cert(&ca, "twosans", "URI:cairn://user/alice,URI:cairn://node/n2", CERT_CLIENT, 86400);
    cert(&ca, "noeku", "URI:cairn://user/alice", 0, 86400);
    cert(&ca, "servereku", "URI:cairn://user/alice", CERT_SERVER, 86400);
    cert(&other_ca, "stranger", "URI:cairn://user/alice", CERT_CLIENT, 86400);
    log_set_sink(log_keep, NULL);
    assert_int_equal(env_uv_open(&server_env), 0);
    struct tls_opts opts = {path_of("ca", "crt"), path_of("n1", "crt"), path_of("n1", "key")};
    assert_int_equal(tls_attach(server_env, &opts, &e), 0);
    (void)snprintf(self.name, sizeof self.name, "n1");
    assert_int_equal(rpc_server_open(server_env, "127.0.0.1:0", &self, &cbs, NULL, &server, &e), 0);
    port = rpc_server_port(server);
    assert_int_equal(pthread_create(&thread, NULL, run, server_env), 0);
    return 0;
}

static void on_down(void *arg)
{
    env_uv_stop(arg);
}

static int group_close(void **state)
{
    (void)state;
    env_uv_stop(server_env);
    pthread_join(thread, NULL);
    rpc_server_close(server, on_down, server_env);
    env_uv_run(server_env);
    tls_detach(server_env);
    env_uv_close(server_env);
    log_set_sink(NULL, NULL);
    test_ca_close(&ca);
    test_ca_close(&other_ca);
    dir_close(&dir);
    return 0;
}

/* ---- clients ---- */

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    struct timeval limit = {.tv_sec = 20};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

struct client {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
};

/* name NULL: no certificate. version: the highest it speaks. Returns what SSL_connect() did. */
static int client_open(struct client *c, const char *name, int version)
{
    log_forget();
    c->fd = dial();
    c->ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(c->ctx, version);
    assert_int_equal(SSL_CTX_load_verify_file(c->ctx, path_of("ca", "crt")), 1);
    SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, NULL);
    if (name != NULL) {
        const char *crt = path_of(name, "crt");
        assert_int_equal(SSL_CTX_use_certificate_file(c->ctx, crt, SSL_FILETYPE_PEM), 1);
        assert_int_equal(
            SSL_CTX_use_PrivateKey_file(c->ctx, path_of(name, "key"), SSL_FILETYPE_PEM), 1);
    }
    c->ssl = SSL_new(c->ctx);
    SSL_set_fd(c->ssl, c->fd);
    return SSL_connect(c->ssl);
}

static void client_close(struct client *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    close(c->fd);
    ERR_clear_error();
}

static size_t frame_make(uint8_t *out, uint16_t kind, uint64_t id, const void *body, size_t len)
{
    frame_pack(&(struct frame_header){.length = (uint32_t)len, .kind = kind, .request_id = id},
               out);
    memcpy(out + FRAME_HEADER_BYTES, body, len);
    return FRAME_HEADER_BYTES + len;
}

static size_t hello_make(uint8_t *out, uint16_t major, uint8_t lane, const char *name)
{
    struct msg_hello m = {.wire_major = major, .lane = lane, .name = slice_of(name, strlen(name))};
    struct buf body = {0};
    assert_int_equal(message_encode_hello(&m, &body), 0);
    size_t n = frame_make(out, KIND_HELLO, 0, body.data, body.len);
    buf_close(&body);
    return n;
}

static bool read_all(SSL *ssl, void *out, size_t len)
{
    size_t done = 0;
    while (done < len) {
        int n = SSL_read(ssl, (uint8_t *)out + done, (int)(len - done));
        if (n <= 0) {
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

static bool read_frame(SSL *ssl, struct frame_header *h, uint8_t body[8192])
{
    uint8_t head[FRAME_HEADER_BYTES];
    const char *cause;
    if (!read_all(ssl, head, sizeof head)) {
        return false;
    }
    assert_int_equal(frame_unpack(head, h, &cause), 0);
    assert_true(h->length <= 8192);
    return read_all(ssl, body, h->length);
}

/* The frame must be ERROR{code} outside of a request, and then the end. */
static void assert_error_then_end(SSL *ssl, int code)
{
    struct frame_header h = {0};
    uint8_t body[8192];
    struct msg_error m = {0};
    assert_true(read_frame(ssl, &h, body));
    assert_int_equal(h.kind, KIND_ERROR);
    assert_int_equal(h.request_id, 0);
    assert_int_equal(message_decode_error(slice_of(body, h.length), &m), 0);
    assert_int_equal(m.code, -code);
    assert_true(m.text.len > 0);
    assert_false(read_all(ssl, body, 1));
}

static void assert_good_client_is_served(void)
{
    struct client c;
    struct frame_header h = {0};
    uint8_t bytes[512];
    uint8_t body[8192];
    assert_int_equal(client_open(&c, "alice", TLS1_3_VERSION), 1);
    assert_string_equal(SSL_get_cipher(c.ssl), "TLS_AES_128_GCM_SHA256");
    size_t n = hello_make(bytes, RPC_WIRE_MAJOR, RPC_LANE_CLIENT, "alice");
    n += frame_make(bytes + n, KIND_ADMIN, 5, "hello", 5);
    assert_int_equal(SSL_write(c.ssl, bytes, (int)n), n);
    assert_true(read_frame(c.ssl, &h, body));
    assert_int_equal(h.kind, KIND_HELLO_OK);
    assert_true(read_frame(c.ssl, &h, body));
    assert_int_equal(h.kind, KIND_ADMIN_RESULT);
    assert_int_equal(h.request_id, 5);
    assert_memory_equal(body, "hello", 5);
    client_close(&c);
}

/* ---- refused before a byte of ours is read ---- */

static void plaintext(const void *bytes, size_t len, const char *cause)
{
    log_forget();
    int fd = dial();
    assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
    uint8_t answer[256];
    ssize_t n = recv(fd, answer, sizeof answer, 0);
    if (n > 0) { /* OpenSSL has an alert for most of them, and only the end for HTTP */
        assert_int_equal(answer[0], 21);
        n = recv(fd, answer, sizeof answer, 0);
    }
    assert_int_equal(n, 0);
    close(fd);
    assert_refusal_logged(cause);
    assert_good_client_is_served();
}

static void a_plaintext_client_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[512] = {0};
    plaintext("GET / HTTP/1.1\r\nHost: n1\r\n\r\n", 27, "plaintext HTTP where TLS 1.3 is required");
    size_t n = hello_make(bytes, RPC_WIRE_MAJOR, RPC_LANE_CLIENT, "alice");
    plaintext(bytes, n, "not TLS: plaintext where TLS 1.3 is required");
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 167 + 13);
    }
    plaintext(bytes, sizeof bytes, "not TLS: plaintext where TLS 1.3 is required");
}

static void an_older_tls_is_refused(void **state)
{
    (void)state;
    struct client c;
    assert_int_not_equal(client_open(&c, "alice", TLS1_2_VERSION), 1);
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
    client_close(&c);
    assert_refusal_logged("an older TLS version: TLS 1.3 is required");
    assert_good_client_is_served();
}

static void certificate(const char *name, int alert_reason, const char *cause)
{
    struct client c;
    uint8_t byte;
    /* In TLS 1.3 a client is through before its certificate is judged: the alert comes with the
     * first read. */
    assert_int_equal(client_open(&c, name, TLS1_3_VERSION), 1);
    assert_false(read_all(c.ssl, &byte, 1));
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), alert_reason);
    client_close(&c);
    assert_refusal_logged(cause);
    assert_good_client_is_served();
}

static void a_client_without_certificate_is_refused(void **state)
{
    (void)state;
    certificate(NULL, SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED,
                "no certificate: a client certificate");
}

static void a_certificate_of_another_ca_is_refused(void **state)
{
    (void)state;
    certificate("stranger", SSL_R_TLSV1_ALERT_UNKNOWN_CA,
                "certificate refused: unable to get local issuer certificate");
}

static void an_expired_certificate_is_refused(void **state)
{
    (void)state;
    certificate("expired", SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED,
                "certificate refused: certificate has expired");
}

static void a_certificate_without_our_name_is_refused(void **state)
{
    (void)state;
    certificate("nosan", SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, "certificate has no SAN URI");
    certificate("rolesan", SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, "malformed cairn:// SAN URI");
    certificate("twosans", SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, "more than one cairn:// SAN URI");
}

static void a_certificate_not_meant_for_clients_is_refused(void **state)
{
    (void)state;
    certificate("noeku", SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE,
                "lacks the extended key usage clientAuth");
    certificate("servereku", SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE,
                "certificate refused: unsuitable certificate purpose");
}

static void a_client_that_says_nothing_is_closed_after_5_s(void **state)
{
    (void)state;
    log_forget();
    int fd = dial();
    uint8_t byte;
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    close(fd);
    assert_refusal_logged("no TLS handshake within 5 s");
    struct client c;
    assert_int_equal(client_open(&c, "alice", TLS1_3_VERSION), 1);
    struct frame_header h = {0};
    uint8_t body[8192];
    assert_true(read_frame(c.ssl, &h, body));
    assert_int_equal(h.kind, KIND_ERROR);
    client_close(&c);
    assert_refusal_logged("no hello within 5 s");
    assert_good_client_is_served();
}

/* ---- authenticated, but not to be believed ---- */

static void hello(uint16_t major, uint8_t lane, const char *name, int code, const char *cause)
{
    struct client c;
    uint8_t bytes[512];
    assert_int_equal(client_open(&c, "alice", TLS1_3_VERSION), 1);
    size_t n = hello_make(bytes, major, lane, name);
    assert_int_equal(SSL_write(c.ssl, bytes, (int)n), n);
    assert_error_then_end(c.ssl, code);
    client_close(&c);
    assert_refusal_logged(cause);
    assert_good_client_is_served();
}

static void a_false_hello_is_refused(void **state)
{
    (void)state;
    hello(RPC_WIRE_MAJOR, RPC_LANE_RAFT, "alice", ERR_DENIED, "the raft lane is for nodes");
    hello(RPC_WIRE_MAJOR, RPC_LANE_BULK, "alice", ERR_DENIED, "the bulk lane is for nodes");
    hello(RPC_WIRE_MAJOR, 3, "alice", ERR_PROTOCOL, "HELLO for unknown lane 3");
    hello(RPC_WIRE_MAJOR, RPC_LANE_CLIENT, "bob", ERR_UNAUTHENTICATED, "HELLO as 'bob'");
    hello(RPC_WIRE_MAJOR, RPC_LANE_CLIENT, "a\nERROR x", ERR_UNAUTHENTICATED,
          "HELLO as 'a?ERROR x'");
    hello(3, RPC_LANE_CLIENT, "alice", ERR_VERSION, "protocol version 3");
}

static void frames(const uint8_t *frame, size_t len, bool after_hello, int code, const char *cause)
{
    struct client c;
    struct frame_header h = {0};
    uint8_t bytes[1024];
    uint8_t body[8192];
    assert_int_equal(client_open(&c, "alice", TLS1_3_VERSION), 1);
    size_t n = after_hello ? hello_make(bytes, RPC_WIRE_MAJOR, RPC_LANE_CLIENT, "alice") : 0;
    memcpy(bytes + n, frame, len);
    n += len;
    assert_int_equal(SSL_write(c.ssl, bytes, (int)n), n);
    if (after_hello) {
        assert_true(read_frame(c.ssl, &h, body));
        assert_int_equal(h.kind, KIND_HELLO_OK);
    }
    assert_error_then_end(c.ssl, code);
    client_close(&c);
    assert_refusal_logged(cause);
    assert_good_client_is_served();
}

static void broken_frames_are_refused(void **state)
{
    (void)state;
    uint8_t f[256] = {0};
    size_t n = frame_make(f, KIND_ADMIN, 1, "x", 1);
    frames(f, n, false, ERR_PROTOCOL, "ADMIN (kind 92) before the hello exchange");
    frames(f, frame_make(f, KIND_HELLO, 0, "\2\0x", 3), false, ERR_PROTOCOL, "malformed HELLO");
    frames(f, frame_make(f, KIND_HELLO, 0, "\2\0x", 3), true, ERR_PROTOCOL, "a second HELLO");
    frames(f, frame_make(f, KIND_RAFT, 0, "", 0), true, ERR_PROTOCOL,
           "RAFT (kind 129) does not belong on the client lane");
    frames(f, frame_make(f, KIND_PING, 0, "123", 3), true, ERR_PROTOCOL, "malformed PING");
    frames(f, frame_make(f, KIND_NONE, 0, "", 0), true, ERR_PROTOCOL, "frame of kind 0");
    n = frame_make(f, KIND_ADMIN, 1, "x", 1);
    store_u32(f, FRAME_BYTES_MAX + 1);
    frames(f, n, true, ERR_TOOBIG, "frame longer than the limit");
    store_u32(f, UINT32_MAX);
    frames(f, n, false, ERR_TOOBIG, "frame longer than the limit");
    n = frame_make(f, KIND_ADMIN, 1, "x", 1);
    f[6] = 1;
    frames(f, n, true, ERR_PROTOCOL, "unknown flags");
    memset(f, 0xa5, sizeof f);
    frames(f, sizeof f, true, ERR_TOOBIG, "frame longer than the limit");
}

static void a_truncated_frame_harms_nobody(void **state)
{
    (void)state;
    struct client c;
    uint8_t bytes[512];
    assert_int_equal(client_open(&c, "alice", TLS1_3_VERSION), 1);
    size_t n = hello_make(bytes, RPC_WIRE_MAJOR, RPC_LANE_CLIENT, "alice");
    n += frame_make(bytes + n, KIND_ADMIN, 1, "half a frame", 12) - 6;
    assert_int_equal(SSL_write(c.ssl, bytes, (int)n), n);
    client_close(&c);
    assert_good_client_is_served();
}

static void a_kind_of_the_future_is_answered_and_the_connection_stays(void **state)
{
    (void)state;
    struct client c;
    struct frame_header h = {0};
    uint8_t bytes[512];
    uint8_t body[8192];
    struct msg_error m = {0};
    assert_int_equal(client_open(&c, "alice", TLS1_3_VERSION), 1);
    size_t n = hello_make(bytes, RPC_WIRE_MAJOR, RPC_LANE_CLIENT, "alice");
    n += frame_make(bytes + n, 9999, 8, "???", 3);
    n += frame_make(bytes + n, KIND_ADMIN, 9, "x", 1);
    assert_int_equal(SSL_write(c.ssl, bytes, (int)n), n);
    assert_true(read_frame(c.ssl, &h, body));
    assert_true(read_frame(c.ssl, &h, body));
    assert_int_equal(h.kind, KIND_ERROR);
    assert_int_equal(h.request_id, 8);
    assert_int_equal(message_decode_error(slice_of(body, h.length), &m), 0);
    assert_int_equal(m.code, -ERR_UNSUPPORTED);
    assert_true(read_frame(c.ssl, &h, body));
    assert_int_equal(h.kind, KIND_ADMIN_RESULT);
    assert_int_equal(h.request_id, 9);
    client_close(&c);
}

/* Bytes of a good session, one of them flipped on the way: TLS notices. */
static void garbage_inside_a_session_ends_it(void **state)
{
    (void)state;
    struct client c;
    uint8_t bytes[512];
    assert_int_equal(client_open(&c, "alice", TLS1_3_VERSION), 1);
    size_t n = hello_make(bytes, RPC_WIRE_MAJOR, RPC_LANE_CLIENT, "alice");
    assert_int_equal(SSL_write(c.ssl, bytes, (int)n), n);
    uint8_t record[64] = {23, 3, 3, 0, 59};
    assert_int_equal(send(c.fd, record, sizeof record, MSG_NOSIGNAL), sizeof record);
    struct frame_header h = {0};
    uint8_t body[8192];
    while (read_frame(c.ssl, &h, body)) { /* HELLO_OK may have been on its way */
        assert_int_equal(h.kind, KIND_HELLO_OK);
    }
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
    client_close(&c);
    assert_good_client_is_served();
}

/* Silent connections end after 5 s. Until then there may be any number of them, and who has a
 * certificate is served beside them; the log says it, and not for each. */
static void a_crowd_that_says_nothing_keeps_nobody_out(void **state)
{
    (void)state;
    static int fds[3 * HANDSHAKES_MAX];
    const size_t count = sizeof fds / sizeof fds[0];
    log_forget();
    for (size_t i = 0; i < count; i++) {
        fds[i] = dial();
    }
    for (int i = 0; i < 10000 && log_count("too many connections") == 0; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_true(log_count("too many connections that have not authenticated") > 0);
    assert_true(log_count("WARN") < 10); /* one a second */
    assert_good_client_is_served();
    assert_good_client_is_served();
    for (size_t i = 0; i < count; i++) {
        close(fds[i]);
    }
    assert_good_client_is_served();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plaintext_client_is_refused),
        cmocka_unit_test(an_older_tls_is_refused),
        cmocka_unit_test(a_client_without_certificate_is_refused),
        cmocka_unit_test(a_certificate_of_another_ca_is_refused),
        cmocka_unit_test(an_expired_certificate_is_refused),
        cmocka_unit_test(a_certificate_without_our_name_is_refused),
        cmocka_unit_test(a_certificate_not_meant_for_clients_is_refused),
        cmocka_unit_test(a_client_that_says_nothing_is_closed_after_5_s),
        cmocka_unit_test(a_false_hello_is_refused),
        cmocka_unit_test(broken_frames_are_refused),
        cmocka_unit_test(a_truncated_frame_harms_nobody),
        cmocka_unit_test(a_kind_of_the_future_is_answered_and_the_connection_stays),
        cmocka_unit_test(garbage_inside_a_session_ends_it),
        cmocka_unit_test(a_crowd_that_says_nothing_keeps_nobody_out),
    };
    return cmocka_run_group_tests(tests, group_open, group_close);
}
