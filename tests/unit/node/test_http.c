/* Health, readiness and metrics, asked over a real socket. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "node/http.h"
#include "support/test.h"

static struct http *http;
static struct err_text e;
static char answer[8192];

static int setup(void **state)
{
    (void)state;
    return http_open("127.0.0.1:0", &http, &e);
}

static int teardown(void **state)
{
    (void)state;
    http_close(http);
    http = NULL;
    return 0;
}

static int connected(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(http))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Sends a request line; the status, with the whole answer in `answer`. */
static int ask(const char *line)
{
    char request[256];
    size_t len = 0;
    int fd = connected();
    int n = snprintf(request, sizeof request, "%s HTTP/1.0\r\n\r\n", line);
    assert_int_equal(send(fd, request, (size_t)n, MSG_NOSIGNAL), n);
    for (;;) {
        ssize_t got = recv(fd, answer + len, sizeof answer - 1 - len, 0);
        if (got <= 0) {
            break;
        }
        len += (size_t)got;
    }
    close(fd);
    answer[len] = 0;
    return len > 12 ? atoi(answer + 9) : 0;
}

static bool says(const char *words)
{
    return strstr(answer, words) != NULL;
}

static const struct node_health well = {.phase = NODE_RUNNING,
                                        .shards = 5,
                                        .shards_leading = 2,
                                        .shards_with_leader = 5,
                                        .commands = 7,
                                        .wal_bytes = 4096,
                                        .connections = 3};

static void nothing_is_well_before_the_first_sign_of_life(void **state)
{
    (void)state;
    assert_int_equal(ask("GET /healthz"), 503);
    assert_int_equal(ask("GET /readyz"), 503);
}

static void a_running_node_is_healthy_and_ready(void **state)
{
    (void)state;
    http_publish(http, &well);
    assert_int_equal(ask("GET /healthz"), 200);
    assert_int_equal(ask("GET /readyz"), 200);
    assert_true(says("ok\n"));
}

static void readiness_says_what_is_missing(void **state)
{
    (void)state;
    struct node_health h = well;
    h.shards_with_leader = 4;
    http_publish(http, &h);
    assert_int_equal(ask("GET /healthz"), 200); /* alive all the same */
    assert_int_equal(ask("GET /readyz"), 503);
    assert_true(says("a shard has no leader"));
    h.shards_failed = 1;
    http_publish(http, &h);
    assert_int_equal(ask("GET /readyz"), 503);
    assert_true(says("a shard has failed here"));
    const struct {
        enum node_phase phase;
        const char *words;
    } phases[] = {{NODE_DISCOVERING, "joining the cluster"},
                  {NODE_JOINING, "joining the cluster"},
                  {NODE_STOPPING, "stopping"},
                  {NODE_FAILED, "failed"}};
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++) {
        h = well;
        h.phase = phases[i].phase;
        http_publish(http, &h);
        assert_int_equal(ask("GET /readyz"), 503);
        assert_true(says(phases[i].words));
    }
}

static void metrics_are_prometheus_text(void **state)
{
    (void)state;
    struct node_health h = well;
    h.disk_full = true;
    http_publish(http, &h);
    assert_int_equal(ask("GET /metrics"), 200);
    assert_true(says("# TYPE cairn_up gauge\ncairn_up 1\n"));
    assert_true(says("\ncairn_shards 5\n"));
    assert_true(says("\ncairn_shards_leading 2\n"));
    assert_true(says("# TYPE cairn_commands_total counter\ncairn_commands_total 7\n"));
    assert_true(says("\ncairn_wal_bytes_total 4096\n"));
    assert_true(says("\ncairn_disk_full 1\n"));
    assert_true(says("\ncairn_clock_off 0\n"));
    /* The greatest values must fit into the answer, too. */
    memset(&h, 0xff, sizeof h);
    h.phase = NODE_RUNNING;
    h.disk_full = true;
    h.clock.off = h.load.gathered = true;
    http_publish(http, &h);
    assert_int_equal(ask("GET /metrics"), 200);
    assert_true(says("cairn_commands_total 18446744073709551615\n"));
    assert_true(says("\ncairn_disk_full 1\n"));
    assert_true(says("\ncairn_clock_off 1\n"));
    assert_true(says("\ncairn_leaders_gathered 1\n"));
}

static void other_paths_and_methods_are_refused(void **state)
{
    (void)state;
    http_publish(http, &well);
    assert_int_equal(ask("GET /"), 404);
    assert_int_equal(ask("GET /healthz/x"), 404);
    assert_int_equal(ask("POST /healthz"), 405);
    assert_int_equal(ask("GARBAGE"), 400);
    assert_int_equal(ask("GET /healthz"), 200);
}

static void a_probe_agrees_with_readyz(void **state)
{
    (void)state;
    char address[64];
    struct node_health h = well;
    (void)snprintf(address, sizeof address, "127.0.0.1:%d", http_port(http));
    http_publish(http, &well);
    assert_int_equal(http_probe(address), 0);
    h.phase = NODE_JOINING;
    http_publish(http, &h);
    assert_int_equal(http_probe(address), 1);
    http_close(http);
    http = NULL;
    assert_int_equal(http_probe(address), 1);
    assert_int_equal(http_probe("nonsense"), 1);
}

static void an_address_in_use_or_invalid_is_named(void **state)
{
    (void)state;
    struct http *second = NULL;
    char address[64];
    (void)snprintf(address, sizeof address, "127.0.0.1:%d", http_port(http));
    assert_int_equal(http_open(address, &second, &e), ERR_IO);
    assert_non_null(strstr(e.text, address));
    assert_non_null(strstr(e.text, "is the port in use?"));
    assert_int_equal(http_open("9631", &second, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "\"9631\" must be HOST:PORT"));
    assert_null(second);
}

/* As in a node with that many clients: more than select() can tell apart. */
static void a_process_with_many_open_files_answers(void **state)
{
    (void)state;
    static int fds[FD_SETSIZE];
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < FD_SETSIZE + 100) {
        skip();
    }
    limit.rlim_cur = FD_SETSIZE + 100;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    http_publish(http, &well);
    for (size_t i = 0; i < FD_SETSIZE; i++) {
        fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_true(fds[i] >= 0);
    }
    int status = ask("GET /healthz");
    for (size_t i = 0; i < FD_SETSIZE; i++) {
        close(fds[i]);
    }
    assert_int_equal(status, 200);
}

static bool ended(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

/* The probe is answered before connections that came shortly before it end by their silence. (Where
 * the machine stood still for seconds they have: then it is tried again.) */
static void a_probe_is_answered_beside_any_number_of_silent_connections(void **state)
{
    (void)state;
    static int fds[1400];
    const size_t count = sizeof fds / sizeof fds[0];
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < 2 * count + 100) {
        skip();
    }
    limit.rlim_cur = 2 * count + 100; /* both ends are ours */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    http_publish(http, &well);
    bool beside = false;
    for (int tries = 0; tries < 5 && !beside; tries++) {
        for (size_t i = 0; i < count; i++) {
            fds[i] = connected();
            if (i % 3 == 0) {
                (void)send(fds[i], "GET /hea", 8, MSG_NOSIGNAL);
            }
        }
        assert_int_equal(ask("GET /readyz"), 200);
        beside = !ended(fds[1000]); /* of the last 400 */
        assert_true(ended(fds[0]));
        for (size_t i = 0; i < count; i++) {
            close(fds[i]);
        }
        assert_int_equal(ask("GET /healthz"), 200);
    }
    assert_true(beside);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_well_before_the_first_sign_of_life),
        TEST(a_running_node_is_healthy_and_ready),
        TEST(readiness_says_what_is_missing),
        TEST(metrics_are_prometheus_text),
        TEST(other_paths_and_methods_are_refused),
        TEST(a_probe_agrees_with_readyz),
        TEST(an_address_in_use_or_invalid_is_named),
        TEST(a_process_with_many_open_files_answers),
        TEST(a_probe_is_answered_beside_any_number_of_silent_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
