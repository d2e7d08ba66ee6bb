/* The real transport with rpc on top: real sockets on loopback, a server and clients as
 * environments of one thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/env_uv.h"
#include "base/log.h"
#include "base/mem.h"
#include "certs.h"
#include "rpc/frame.h"
#include "rpc/rpc.h"
#include "rpc/tls.h"
#include "support/dir.h"

static struct dir dir;
static struct test_ca ca;
static struct test_ca other_ca;

/* ---- the log, to be asked for lines ---- */

static char log_text[65536];
static size_t log_len;

static void log_keep(void *arg, enum log_level level, const char *line)
{
    (void)arg;
    (void)level;
    size_t n = strlen(line);
    if (log_len + n + 2 < sizeof log_text) {
        memcpy(log_text + log_len, line, n);
        log_len += n;
        log_text[log_len++] = '\n';
        log_text[log_len] = '\0';
    }
}

static void log_forget(void)
{
    log_len = 0;
    log_text[0] = '\0';
}

static int log_count(const char *part)
{
    int n = 0;
    for (const char *at = log_text; (at = strstr(at, part)) != NULL; at++) {
        n++;
    }
    return n;
}

#define assert_logged_once(part)                                                                   \
    do {                                                                                           \
        if (log_count(part) != 1) {                                                                \
            print_error("log, wanted once \"%s\":\n%s", part, log_text);                           \
        }                                                                                          \
        assert_int_equal(log_count(part), 1);                                                      \
    } while (0)

/* ---- certificates ---- */

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
                 long from_s, long until_s)
{
    test_cert_write(by, san, usage, from_s, until_s, path_of(name, "crt"), path_of(name, "key"));
}

static int group_open(void **state)
{
    (void)state;
    const int both = CERT_SERVER | CERT_CLIENT;
    dir_open(&dir);
    test_ca_open(&ca, "cairn test CA");
    test_ca_open(&other_ca, "another CA");
    test_ca_write(&ca, path_of("ca", "crt"));
    test_ca_write(&other_ca, path_of("other_ca", "crt"));
    cert(&ca, "n1", "URI:cairn://node/n1", both, -86400, 86400);
    cert(&ca, "n2", "URI:cairn://node/n2", both, -86400, 86400);
    cert(&ca, "alice", "URI:cairn://user/alice", CERT_CLIENT, -86400, 86400);
    cert(&ca, "expired", "URI:cairn://user/alice", CERT_CLIENT, -86400, -3600);
    cert(&ca, "nosan", NULL, CERT_CLIENT, -86400, 86400);
    cert(&ca, "badsan", "URI:cairn://user/a\\/b", CERT_CLIENT, -86400, 86400);
    cert(&ca, "twosans", "URI:cairn://user/alice,URI:cairn://node/n2", CERT_CLIENT, -86400, 86400);
    cert(&ca, "noeku", "URI:cairn://user/alice", 0, -86400, 86400);
    cert(&ca, "servereku", "URI:cairn://user/alice", CERT_SERVER, -86400, 86400);
    cert(&ca, "userserver", "URI:cairn://user/bob", both, -86400, 86400);
    cert(&other_ca, "stranger", "URI:cairn://user/alice", CERT_CLIENT, -86400, 86400);
    cert(&other_ca, "strangenode", "URI:cairn://node/n1", both, -86400, 86400);
    log_set_sink(log_keep, NULL);
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    log_set_sink(NULL, NULL);
    test_ca_close(&ca);
    test_ca_close(&other_ca);
    dir_close(&dir);
    return 0;
}

/* ---- a server on its environment; clients share it unless they bring their own certificate ----
 */

struct fixture {
    struct env *env;
    struct env *client_env;
    struct rpc_server *server;
    struct rpc_identity server_self;
    struct rpc_identity client_self;
    struct rpc_conn *client;
    struct rpc_conn *incoming;
    int port;
    int ready;
    int incoming_closed;
    int client_closed;
    int client_reason;
    char client_text[512];
    bool server_down;
    bool detaching; /* its client environment runs no more */
    bool refuse;
    bool hold; /* the server pauses after each frame */
    uint64_t frames;
    uint64_t answers;
    uint64_t answer_bytes;
    uint64_t stop_at; /* answers */
    int drained;
};

static int server_on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                           const struct msg_hello_ok *ok, struct err_text *e)
{
    struct fixture *f = arg;
    assert_non_null(hello);
    assert_null(ok);
    f->incoming = conn;
    return f->refuse ? err_set(e, ERR_WRONGCLUSTER, "cluster 7 is not cluster 8") : 0;
}

static void server_on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                            struct slice body)
{
    struct fixture *f = arg;
    f->frames++;
    struct frame_header h = {.kind = KIND_ADMIN_RESULT, .request_id = header->request_id};
    assert_int_equal(rpc_send(conn, &h, &body, 1), 0);
}

static void server_on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct fixture *f = arg;
    (void)conn;
    (void)reason;
    assert_true(strlen(text) > 0);
    f->incoming = NULL;
    f->incoming_closed++;
}

static const struct rpc_cbs server_cbs = {
    .on_ready = server_on_ready, .on_frame = server_on_frame, .on_close = server_on_close};

static int client_on_ready(void *arg, struct rpc_conn *conn, const struct msg_hello *hello,
                           const struct msg_hello_ok *ok, struct err_text *e)
{
    struct fixture *f = arg;
    (void)e;
    assert_null(hello);
    assert_non_null(ok);
    assert_int_equal(rpc_peer(conn)->role, ENV_ROLE_NODE);
    f->ready++;
    if (f->stop_at == 0) {
        env_uv_stop(f->client_env);
    }
    return 0;
}

static void client_on_frame(void *arg, struct rpc_conn *conn, const struct frame_header *header,
                            struct slice body)
{
    struct fixture *f = arg;
    (void)conn;
    assert_int_equal(header->kind, KIND_ADMIN_RESULT);
    assert_int_equal(header->request_id, f->answers + 1);
    f->answers++;
    f->answer_bytes += body.len;
    if (f->answers == f->stop_at) {
        env_uv_stop(f->client_env);
    }
}

static void client_on_close(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    struct fixture *f = arg;
    (void)conn;
    f->client = NULL;
    f->client_closed++;
    f->client_reason = reason;
    (void)snprintf(f->client_text, sizeof f->client_text, "%s", text);
    if (!f->detaching) {
        env_uv_stop(f->client_env);
    }
}

static const struct rpc_cbs client_cbs = {
    .on_ready = client_on_ready, .on_frame = client_on_frame, .on_close = client_on_close};

static void env_attach(struct env **env, const char *ca_name, const char *name)
{
    struct err_text e;
    assert_int_equal(env_uv_open(env), 0);
    struct tls_opts opts = {path_of(ca_name, "crt"), path_of(name, "crt"), path_of(name, "key")};
    int rv = tls_attach(*env, &opts, &e);
    if (rv != 0) {
        print_error("%s\n", e.text);
    }
    assert_int_equal(rv, 0);
}

static void *server_thread(void *arg)
{
    struct fixture *f = arg;
    env_uv_run(f->env);
    return NULL;
}

static void address_of(const struct fixture *f, char out[64])
{
    (void)snprintf(out, 64, "127.0.0.1:%d", f->port);
}

static void fixture_open(struct fixture *f)
{
    struct err_text e;
    memset(f, 0, sizeof *f);
    log_forget();
    env_attach(&f->env, "ca", "n1");
    f->client_env = f->env;
    (void)snprintf(f->server_self.name, sizeof f->server_self.name, "n1");
    f->server_self.node_uid = 11;
    f->server_self.cluster_id = 7;
    (void)snprintf(f->client_self.name, sizeof f->client_self.name, "n1");
    f->client_self.node_uid = 11;
    assert_int_equal(
        rpc_server_open(f->env, "127.0.0.1:0", &f->server_self, &server_cbs, f, &f->server, &e), 0);
    f->port = rpc_server_port(f->server);
    assert_true(f->port > 0);
}

static void on_server_down(void *arg)
{
    struct fixture *f = arg;
    f->server_down = true;
    env_uv_stop(f->env);
}

static void fixture_close(struct fixture *f)
{
    if (f->client != NULL) {
        rpc_close(f->client, ERR_CLOSED);
        while (f->client != NULL) {
            env_uv_run(f->client_env);
        }
    }
    rpc_server_close(f->server, on_server_down, f);
    while (!f->server_down) {
        env_uv_run(f->env);
    }
    tls_detach(f->env);
    env_uv_close(f->env);
}

static void connect_client(struct fixture *f, enum rpc_lane lane, const char *expected)
{
    char address[64];
    address_of(f, address);
    assert_int_equal(rpc_connect(f->client_env, address, expected, lane, &f->client_self,
                                 &client_cbs, f, &f->client),
                     0);
}

/* ---- tests: service ---- */

static void frames_travel_both_ways_in_order(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f);
    connect_client(&f, RPC_LANE_CLIENT, "n1");
    env_uv_run(f.env);
    assert_int_equal(f.ready, 1);
    assert_string_equal(rpc_peer(f.client)->name, "n1");
    assert_string_equal(rpc_peer(f.incoming)->name, "n1");
    static uint8_t body[3 << 20];
    for (size_t i = 0; i < sizeof body; i++) {
        body[i] = (uint8_t)(i * 31 + i / 7);
    }
    const size_t sizes[] = {0, 1, 31, 256, 16384, 65536, 700000, sizeof body, 5};
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct frame_header h = {.kind = KIND_ADMIN, .request_id = i + 1};
        struct slice parts[2] = {slice_of(body, sizes[i] / 2),
                                 slice_of(body + sizes[i] / 2, sizes[i] - sizes[i] / 2)};
        assert_int_equal(rpc_send(f.client, &h, parts, 2), 0);
        bytes += sizes[i];
    }
    f.stop_at = sizeof sizes / sizeof *sizes;
    env_uv_run(f.env);
    assert_int_equal(f.answers, f.stop_at);
    assert_int_equal(f.answer_bytes, bytes);
    struct rpc_server_stats stats;
    rpc_server_stats(f.server, &stats);
    assert_int_equal(stats.open, 1);
    assert_int_equal(stats.frames_in, f.stop_at + 1);
    fixture_close(&f);
    assert_int_equal(f.client_reason, ERR_CLOSED);
    assert_int_equal(f.incoming_closed, 1);
}

static void a_paused_reader_holds_the_sender_back_and_loses_nothing(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f);
    connect_client(&f, RPC_LANE_CLIENT, "n1");
    env_uv_run(f.env);
    static uint8_t body[1 << 20];
    rpc_pause(f.incoming, true);
    struct slice part = slice_of(body, sizeof body);
    uint64_t n = 0;
    int rv = 0;
    while (rv == 0) {
        struct frame_header h = {.kind = KIND_ADMIN, .request_id = n + 1};
        rv = rpc_send(f.client, &h, &part, 1);
        n += rv == 0;
    }
    assert_int_equal(rv, ERR_BUSY);
    assert_true(n >= 60);
    assert_true(rpc_queued(f.client) <= CONN_QUEUE_BYTES_MAX);
    rpc_pause(f.incoming, false);
    f.stop_at = n;
    env_uv_run(f.env);
    assert_int_equal(f.answers, n);
    assert_int_equal(f.answer_bytes, n * sizeof body);
    fixture_close(&f);
}

static void on_never(void *arg, struct rpc_conn *conn, int reason, const char *text)
{
    (void)arg;
    (void)conn;
    (void)reason;
    (void)text;
}

static void a_link_comes_back_when_its_server_does(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f);
    struct rpc_cbs cbs = client_cbs;
    cbs.on_close = on_never;
    struct rpc_link *link;
    char address[64];
    address_of(&f, address);
    assert_int_equal(
        rpc_link_open(f.env, address, "n1", RPC_LANE_RAFT, &f.client_self, &cbs, &f, &link), 0);
    assert_null(rpc_link_conn(link));
    env_uv_run(f.env);
    assert_int_equal(f.ready, 1);
    assert_non_null(rpc_link_conn(link));
    rpc_close(f.incoming, ERR_SHUTDOWN);
    env_uv_run(f.env);
    assert_int_equal(f.ready, 2);
    assert_non_null(rpc_link_conn(link));
    rpc_link_close(link);
    fixture_close(&f);
}

/* ---- tests: refusals of a real client, which learns the cause ---- */

static void *client_thread(void *arg)
{
    struct fixture *f = arg;
    env_uv_run(f->client_env);
    return NULL;
}

/* A client with certificate `name` under CA `ca_name` connects; both loops run until it is closed.
 */
static void refused_client(struct fixture *f, const char *ca_name, const char *name,
                           const char *self, enum rpc_lane lane, const char *expected)
{
    fixture_open(f);
    /* tls_attach() refuses what can't work; such certificates are checked with a plain OpenSSL
     * client below. */
    env_attach(&f->client_env, ca_name, name);
    (void)snprintf(f->client_self.name, sizeof f->client_self.name, "%s", self);
    f->stop_at = UINT64_MAX;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, server_thread, f), 0);
    connect_client(f, lane, expected);
    assert_null(client_thread(f));
    assert_int_equal(f->client_closed, 1);
    env_uv_stop(f->env);
    pthread_join(thread, NULL);
    tls_detach(f->client_env);
    env_uv_close(f->client_env);
    fixture_close(f);
}

static void a_user_on_the_raft_lane_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    refused_client(&f, "ca", "alice", "alice", RPC_LANE_RAFT, "n1");
    assert_int_equal(f.client_reason, ERR_DENIED);
    assert_non_null(strstr(f.client_text, "the raft lane is for nodes, and 'alice' is a user"));
    assert_logged_once("the raft lane is for nodes");
    assert_int_equal(f.ready, 0);
}

static void a_false_name_in_hello_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    refused_client(&f, "ca", "alice", "mallory", RPC_LANE_CLIENT, "n1");
    assert_int_equal(f.client_reason, ERR_UNAUTHENTICATED);
    assert_non_null(strstr(f.client_text, "HELLO as 'mallory'"));
    assert_logged_once("HELLO as 'mallory', but the certificate is that of 'alice'");
}

static void a_server_with_another_name_is_refused_by_the_client(void **state)
{
    (void)state;
    struct fixture f;
    refused_client(&f, "ca", "alice", "alice", RPC_LANE_CLIENT, "n2");
    assert_int_equal(f.client_reason, ERR_TLS);
    assert_non_null(strstr(f.client_text, "certificate is that of 'n1', but 'n2' was expected"));
    assert_logged_once("refusing a connection");
}

static void a_client_of_another_ca_refuses_the_server(void **state)
{
    (void)state;
    struct fixture f;
    refused_client(&f, "other_ca", "stranger", "alice", RPC_LANE_CLIENT, "n1");
    assert_int_equal(f.client_reason, ERR_TLS);
    assert_non_null(strstr(f.client_text, "certificate refused"));
    assert_logged_once("refusing a connection");
}

/* A client that trusts our CA (both certificates in its CA file would do) but has a certificate of
 * another one. */
static void a_certificate_of_another_ca_is_refused_with_an_alert(void **state)
{
    (void)state;
    static char pem[65536];
    const char *both = path_of("both", "crt");
    int64_t a = dir_file_size(path_of("ca", "crt"));
    int64_t b = dir_file_size(path_of("other_ca", "crt"));
    dir_file_read(path_of("ca", "crt"), 0, pem, (uint64_t)a);
    dir_file_read(path_of("other_ca", "crt"), 0, pem + a, (uint64_t)b);
    dir_file_write(both, 0, pem, (uint64_t)(a + b));
    struct fixture f;
    refused_client(&f, "both", "stranger", "alice", RPC_LANE_CLIENT, "n1");
    assert_int_equal(f.client_reason, ERR_UNAUTHENTICATED);
    assert_non_null(strstr(f.client_text, "the peer refused our certificate 'alice'"));
    assert_logged_once("refusing a connection");
    assert_logged_once("certificate refused: self-signed certificate in certificate chain");
}

static void an_owner_can_refuse_with_a_text(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f);
    f.refuse = true;
    connect_client(&f, RPC_LANE_CLIENT, "n1");
    env_uv_run(f.env);
    assert_int_equal(f.client_reason, ERR_WRONGCLUSTER);
    assert_non_null(strstr(f.client_text, "cluster 7 is not cluster 8"));
    assert_logged_once("cluster 7 is not cluster 8");
    fixture_close(&f);
}

static void nobody_listening_is_no_connection(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f);
    rpc_server_stop(f.server);
    connect_client(&f, RPC_LANE_CLIENT, "n1");
    env_uv_run(f.env);
    assert_int_equal(f.client_reason, ERR_NOCONN);
    assert_non_null(strstr(f.client_text, "connection refused"));
    struct rpc_conn *c;
    assert_int_equal(
        rpc_connect(f.env, "no port", NULL, RPC_LANE_CLIENT, &f.client_self, &client_cbs, &f, &c),
        ERR_INVAL);
    assert_null(c);
    fixture_close(&f);
}

static void localhost_is_tried_with_all_its_addresses(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f);
    char address[64];
    (void)snprintf(address, sizeof address, "localhost:%d", f.port);
    assert_int_equal(rpc_connect(f.env, address, "n1", RPC_LANE_CLIENT, &f.client_self, &client_cbs,
                                 &f, &f.client),
                     0);
    env_uv_run(f.env);
    assert_int_equal(f.ready, 1);
    fixture_close(&f);
}

/* ---- tests: attaching ---- */

static int attach_text(const char *ca_name, const char *cert_name, const char *key_name,
                       struct err_text *e)
{
    struct env *env;
    assert_int_equal(env_uv_open(&env), 0);
    struct tls_opts opts = {path_of(ca_name, "crt"), path_of(cert_name, "crt"),
                            path_of(key_name, "key")};
    int rv = tls_attach(env, &opts, e);
    if (rv == 0) {
        tls_detach(env);
    }
    env_uv_close(env);
    return rv;
}

static void attaching_names_the_file_and_what_is_wrong(void **state)
{
    (void)state;
    struct err_text e;
    assert_int_equal(attach_text("ca", "n1", "n1", &e), 0);
    assert_int_equal(attach_text("missing", "n1", "n1", &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "missing.crt: No such file"));
    assert_int_equal(attach_text("ca", "n1", "n2", &e), ERR_TLS);
    assert_non_null(strstr(e.text, "n2.key"));
    assert_int_equal(attach_text("ca", "expired", "expired", &e), ERR_TLS);
    assert_non_null(strstr(e.text, "certificate has expired"));
    assert_int_equal(attach_text("ca", "nosan", "nosan", &e), ERR_TLS);
    assert_non_null(strstr(e.text, "no SAN URI"));
    assert_int_equal(attach_text("ca", "badsan", "badsan", &e), ERR_TLS);
    assert_non_null(strstr(e.text, "malformed"));
    assert_int_equal(attach_text("ca", "twosans", "twosans", &e), ERR_TLS);
    assert_non_null(strstr(e.text, "more than one"));
    assert_int_equal(attach_text("ca", "noeku", "noeku", &e), ERR_TLS);
    assert_non_null(strstr(e.text, "clientAuth"));
    assert_int_equal(attach_text("ca", "stranger", "stranger", &e), ERR_TLS);
    assert_non_null(strstr(e.text, "is not valid under the CA"));
}

static void attaching_survives_each_failed_allocation(void **state)
{
    (void)state;
    struct err_text e;
    for (long n = 0;; n++) {
        struct env *env;
        assert_int_equal(env_uv_open(&env), 0);
        struct tls_opts opts = {path_of("ca", "crt"), path_of("n1", "crt"), path_of("n1", "key")};
        mem_fault(n, 1);
        int rv = tls_attach(env, &opts, &e);
        long hits = mem_fault_hits();
        mem_fault(0, 0);
        if (rv == 0) {
            tls_detach(env);
        }
        env_uv_close(env);
        if (hits == 0) {
            assert_int_equal(rv, 0);
            return;
        }
        assert_int_equal(rv, ERR_NOMEM);
    }
}

static void certificates_are_reloaded_without_restart(void **state)
{
    (void)state;
    struct fixture f;
    struct err_text e;
    struct env_peer self;
    int64_t before;
    int64_t after;
    cert(&ca, "renewed", "URI:cairn://node/n1", CERT_SERVER | CERT_CLIENT, -86400, 86400);
    fixture_open(&f);
    struct env *env;
    env_attach(&env, "ca", "renewed");
    assert_int_equal(tls_self(env, &self, &before), 0);
    assert_string_equal(self.name, "n1");
    assert_int_equal(self.role, ENV_ROLE_NODE);
    cert(&ca, "renewed", "URI:cairn://node/n1", CERT_SERVER | CERT_CLIENT, -86400, 2 * 86400);
    assert_int_equal(tls_reload(env, &e), 0);
    assert_int_equal(tls_self(env, &self, &after), 0);
    assert_true(after > before);
    cert(&ca, "renewed", "URI:cairn://node/n2", CERT_SERVER | CERT_CLIENT, -86400, 86400);
    assert_int_equal(tls_reload(env, &e), ERR_TLS);
    assert_non_null(strstr(e.text, "is now the certificate of 'n2'"));
    tls_detach(env);
    env_uv_close(env);
    fixture_close(&f);
}

static void a_key_says_whose_it_is_and_nothing_else(void **state)
{
    (void)state;
    struct env *env;
    struct env *same;
    struct env *other;
    env_attach(&env, "ca", "n1");
    env_attach(&same, "ca", "n1");
    env_attach(&other, "ca", "n2");
    assert_true(tls_secret(env) != 0);
    assert_int_equal(tls_secret(env), tls_secret(same));
    assert_true(tls_secret(other) != 0);
    assert_true(tls_secret(other) != tls_secret(env));
    struct env *envs[] = {env, same, other};
    for (size_t i = 0; i < 3; i++) {
        tls_detach(envs[i]);
        assert_int_equal(tls_secret(envs[i]), 0);
        env_uv_close(envs[i]);
    }
}

/* Whoever has closed a connection need not wait for its goodbye before it ends the transport. */
static void what_its_owner_closed_ends_with_the_transport(void **state)
{
    (void)state;
    for (unsigned open = 0; open < 2; open++) {
        struct fixture f;
        fixture_open(&f);
        env_attach(&f.client_env, "ca", "n1");
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, server_thread, &f), 0);
        connect_client(&f, RPC_LANE_RAFT, "n1");
        if (open == 1) {
            env_uv_run(f.client_env); /* until it is ready */
        }
        rpc_close(f.client, ERR_CLOSED);
        assert_int_equal(f.client_closed, 0);
        f.detaching = true;
        tls_detach(f.client_env);
        assert_int_equal(f.client_closed, 1);
        assert_int_equal(f.client_reason, ERR_CLOSED);
        env_uv_close(f.client_env);
        env_uv_stop(f.env);
        pthread_join(thread, NULL);
        fixture_close(&f);
    }
}

/* ---- a crowd ---- */

#define CROWD 200

struct crowd {
    struct fixture f;
    struct env_post post; /* comes once a turn */
    uint64_t waiting;     /* a turn ago */
    uint64_t most;        /* that a turn took */
    uint64_t wanted;
    uint32_t turns;
};

static uint64_t handshakes(struct crowd *c)
{
    struct rpc_server_stats stats;
    rpc_server_stats(c->f.server, &stats);
    return stats.handshakes;
}

static void crowd_look(struct env_post *post)
{
    struct crowd *c = container_of(post, struct crowd, post);
    uint64_t waiting = handshakes(c);
    c->most = waiting - c->waiting > c->most ? waiting - c->waiting : c->most;
    c->waiting = waiting;
    if (waiting == c->wanted) {
        env_uv_stop(c->f.env);
    } else {
        assert_true(++c->turns < 1000000);
        env_post(c->f.env, post);
    }
}

static int dial(const struct crowd *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)c->f.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void crowd_wait(struct crowd *c, uint64_t wanted)
{
    c->wanted = wanted;
    c->post.cb = crowd_look;
    env_post(c->f.env, &c->post);
    env_uv_run(c->f.env);
}

/* Whoever is busy accepting leads no shard. */
static void a_crowd_comes_in_over_many_turns(void **state)
{
    (void)state;
    struct crowd c = {.waiting = 0};
    static int fds[CROWD];
    fixture_open(&c.f);
    for (int i = 0; i < CROWD; i++) {
        fds[i] = dial(&c); /* all are in the backlog before the first turn */
    }
    crowd_wait(&c, CROWD);
    assert_true(c.most <= 80); /* 32 in each of the two turns that a look may see */
    for (int i = 0; i < CROWD; i++) {
        close(fds[i]);
    }
    fixture_close(&c.f);
}

/* libuv accepts nothing more until what it has offered is taken. */
static void who_found_no_memory_comes_in_when_there_is_some(void **state)
{
    (void)state;
    struct crowd c = {.waiting = 0};
    fixture_open(&c.f);
    int first = dial(&c);
    int second = dial(&c);
    mem_fault(0, 1);
    crowd_wait(&c, 2);
    assert_int_equal(mem_fault_hits(), 1);
    assert_logged_once("out of memory");
    close(first);
    close(second);
    fixture_close(&c.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_travel_both_ways_in_order),
        cmocka_unit_test(what_its_owner_closed_ends_with_the_transport),
        cmocka_unit_test(a_paused_reader_holds_the_sender_back_and_loses_nothing),
        cmocka_unit_test(a_link_comes_back_when_its_server_does),
        cmocka_unit_test(a_user_on_the_raft_lane_is_refused),
        cmocka_unit_test(a_false_name_in_hello_is_refused),
        cmocka_unit_test(a_server_with_another_name_is_refused_by_the_client),
        cmocka_unit_test(a_client_of_another_ca_refuses_the_server),
        cmocka_unit_test(a_certificate_of_another_ca_is_refused_with_an_alert),
        cmocka_unit_test(an_owner_can_refuse_with_a_text),
        cmocka_unit_test(nobody_listening_is_no_connection),
        cmocka_unit_test(a_crowd_comes_in_over_many_turns),
        cmocka_unit_test(who_found_no_memory_comes_in_when_there_is_some),
        cmocka_unit_test(localhost_is_tried_with_all_its_addresses),
        cmocka_unit_test(attaching_names_the_file_and_what_is_wrong),
        cmocka_unit_test(attaching_survives_each_failed_allocation),
        cmocka_unit_test(certificates_are_reloaded_without_restart),
        cmocka_unit_test(a_key_says_whose_it_is_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, group_open, group_close);
}
