#include "node/http.h"

#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/list.h"
#include "base/mem.h"

#define HTTP_TEXT_BYTES 8192 /* all metrics and what they mean */
#define HTTP_SILENCE_NS 5000000000ull
/* Who holds connections open is not in the way of probes: beyond so many the oldest ends for the
 * newest, since a probe sends its request at once and is answered as it comes. At its own limit the
 * library would accept nobody any more: it is not reached. */
#define HTTP_CONNECTIONS_KEPT 512u
#define HTTP_CONNECTIONS_MAX  (HTTP_CONNECTIONS_KEPT + 64u)
#define HTTP_TIMEOUT_S        3u
#define HTTP_REQUEST_BYTES    8192u

struct caller {
    struct list link; /* in open or unused; alone: told to end, and not yet gone */
    int fd;           /* the library's, which says when it closes it */
};

struct http {
    struct MHD_Daemon *daemon;
    pthread_mutex_t lock; /* over the three below; taken by the reactor and by the HTTP thread,
                             never while waiting */
    struct node_health health;
    bool published;
    uint64_t published_ns;
    /* Of the HTTP thread alone. */
    struct caller callers[HTTP_CONNECTIONS_MAX];
    struct list open; /* oldest first */
    struct list unused;
    uint32_t open_count;
};

/* The HTTP thread has no environment: it only asks how long ago the reactor gave a sign of life. */
static uint64_t monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static const char *not_ready(const struct node_health *h, bool alive)
{
    if (!alive) {
        return "the reactor has not turned for 5 s\n";
    }
    if (h->phase != NODE_RUNNING) {
        return h->phase == NODE_STOPPING ? "stopping\n"
               : h->phase == NODE_FAILED ? "failed\n"
                                         : "joining the cluster\n";
    }
    if (h->shards_failed > 0) {
        return "a shard has failed here\n";
    }
    if (h->shards_with_leader < h->shards) {
        return "a shard has no leader\n";
    }
    return NULL;
}

static int print_metrics(const struct node_health *h, char *out, size_t size)
{
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } rows[] = {
        {"cairn_up", "gauge", "1 while the node runs", h->phase == NODE_RUNNING ? 1 : 0},
        {"cairn_shards", "gauge", "shard replicas on this node", h->shards},
        {"cairn_shards_leading", "gauge", "shards that this node leads", h->shards_leading},
        {"cairn_shards_without_leader", "gauge", "shards whose leader is unknown here",
         h->shards - h->shards_with_leader},
        {"cairn_shards_failed", "gauge", "shard replicas that stopped for good", h->shards_failed},
        {"cairn_connections", "gauge", "accepted connections", h->connections},
        {"cairn_handshakes", "gauge", "connections that have not authenticated yet", h->handshakes},
        {"cairn_handshakes_ended_total", "counter",
         "connections ended before they authenticated, for newer ones to have their place",
         h->handshakes_ended},
        {"cairn_watches", "gauge", "watches that wait for changes", h->watches},
        {"cairn_commands_total", "counter", "commands received from clients", h->commands},
        {"cairn_reads_total", "counter", "reads received from clients", h->reads},
        {"cairn_batches_total", "counter", "log entries proposed", h->batches},
        {"cairn_wal_writes_total", "counter", "writes of the log to the device", h->wal_writes},
        {"cairn_wal_bytes_total", "counter", "bytes of the log written to the device",
         h->wal_bytes},
        {"cairn_wal_sync_p99_nanoseconds", "gauge", "write and sync of the last 1024 log writes",
         h->wal_sync_ns_p99},
        {"cairn_disk_full", "gauge", "1 while new work is refused for lack of disk space",
         h->disk_full ? 1 : 0},
        {"cairn_loop_busy_permille", "gauge",
         "thousandths of a processor that the event loop uses, of the last seconds",
         h->load.busy_permille},
        {"cairn_leaders_gathered", "gauge",
         "1: leaders are drawn to one node, 0: to each shard's first member",
         h->load.gathered ? 1 : 0},
        {"cairn_clock_off", "gauge",
         "1 while the wall clock is off those of the other nodes; this node leads no shards",
         h->clock.off ? 1 : 0},
    };
    int at = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        at += snprintf(out + at, size - (size_t)at, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n",
                       rows[i].name, rows[i].help, rows[i].name, rows[i].type, rows[i].name,
                       (unsigned long long)rows[i].value);
        assert((size_t)at < size);
    }
    return at;
}

static enum MHD_Result answer(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **con_cls)
{
    struct http *http = cls;
    char text[HTTP_TEXT_BYTES];
    unsigned status = MHD_HTTP_OK;
    (void)version;
    (void)upload;
    (void)upload_bytes;
    (void)con_cls;

    pthread_mutex_lock(&http->lock);
    struct node_health h = http->health;
    bool alive = http->published && monotonic_ns() - http->published_ns < HTTP_SILENCE_NS;
    pthread_mutex_unlock(&http->lock);

    const char *problem = not_ready(&h, alive);
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        status = MHD_HTTP_METHOD_NOT_ALLOWED;
        (void)snprintf(text, sizeof text, "only GET\n");
    } else if (strcmp(url, "/healthz") == 0) {
        status = alive ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
        (void)snprintf(text, sizeof text, "%s", alive ? "ok\n" : problem);
    } else if (strcmp(url, "/readyz") == 0) {
        status = problem == NULL ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
        (void)snprintf(text, sizeof text, "%s", problem == NULL ? "ok\n" : problem);
    } else if (strcmp(url, "/metrics") == 0) {
        print_metrics(&h, text, sizeof text);
    } else {
        status = MHD_HTTP_NOT_FOUND;
        (void)snprintf(text, sizeof text, "/healthz, /readyz or /metrics\n");
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_COPY);
    if (response == NULL) {
        return MHD_NO;
    }
    MHD_add_response_header(response, "Content-Type", "text/plain; version=0.0.4");
    enum MHD_Result rv = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return rv;
}

/* On the HTTP thread, when a connection was accepted and before it is closed. */
static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *http = cls;
    struct caller *caller = *context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (caller != NULL) {
            http->open_count -= list_empty(&caller->link) ? 0 : 1;
            list_remove(&caller->link);
            list_push_back(&http->unused, &caller->link);
        }
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info == NULL || list_empty(&http->unused)) {
        return; /* ends by the timeout */
    }
    caller = list_entry(http->unused.next, struct caller, link);
    list_remove(&caller->link);
    list_push_back(&http->open, &caller->link);
    caller->fd = info->connect_fd;
    *context = caller;
    if (++http->open_count > HTTP_CONNECTIONS_KEPT) {
        struct caller *oldest = list_entry(http->open.next, struct caller, link);
        list_remove(&oldest->link);
        http->open_count--;
        shutdown(oldest->fd, SHUT_RDWR); /* the library finds it ended, and closes it */
    }
}

/* "host:port" to addresses of this or another machine. */
static int resolve(const char *address, int flags, struct addrinfo **out)
{
    char host[ADDRESS_BYTES_MAX + 1];
    const char *colon = strrchr(address, ':');
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    *out = NULL;
    if (colon == NULL || (size_t)(colon - address) >= sizeof host) {
        return ERR_CONFIG;
    }
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = 0;
    return getaddrinfo(host, colon + 1, &hints, out) == 0 && *out != NULL ? 0 : ERR_CONFIG;
}

int http_open(const char *address, struct http **out, struct err_text *e)
{
    *out = NULL;
    struct addrinfo *found = NULL;
    if (resolve(address, AI_PASSIVE, &found) != 0) {
        return err_set(e, ERR_CONFIG, "http: \"%s\" must be HOST:PORT, an address of this machine",
                       address);
    }
    struct http *http = mem_zalloc(sizeof *http);
    if (http == NULL) {
        freeaddrinfo(found);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    pthread_mutex_init(&http->lock, NULL);
    list_init(&http->open);
    list_init(&http->unused);
    for (size_t i = 0; i < HTTP_CONNECTIONS_MAX; i++) {
        list_push_back(&http->unused, &http->callers[i].link);
    }
    /* By poll(): select(), which is used otherwise, knows 1024 files, and a node has many more. */
    http->daemon =
        MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD, 0, NULL, NULL, answer, http,
                         MHD_OPTION_SOCK_ADDR, found->ai_addr, MHD_OPTION_CONNECTION_LIMIT,
                         HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, HTTP_TIMEOUT_S,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_REQUEST_BYTES,
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_END);
    freeaddrinfo(found);
    if (http->daemon == NULL) {
        http_close(http);
        return err_set(e, ERR_IO, "http: can't listen on %s: is the port in use?", address);
    }
    *out = http;
    return 0;
}

int http_port(const struct http *http)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info == NULL ? 0 : info->port;
}

void http_publish(struct http *http, const struct node_health *health)
{
    pthread_mutex_lock(&http->lock);
    http->health = *health;
    http->published = true;
    http->published_ns = monotonic_ns();
    pthread_mutex_unlock(&http->lock);
}

void http_close(struct http *http)
{
    if (http == NULL) {
        return;
    }
    if (http->daemon != NULL) {
        MHD_stop_daemon(http->daemon);
    }
    pthread_mutex_destroy(&http->lock);
    mem_free(http);
}

int http_probe(const char *address)
{
    static const char request[] = "GET /readyz HTTP/1.0\r\n\r\n";
    char text[1024];
    size_t len = 0;
    struct addrinfo *found = NULL;
    const struct timeval limit = {3, 0};
    if (resolve(address, 0, &found) != 0) {
        fprintf(stderr, "cairnd: \"%s\" must be HOST:PORT\n", address);
        return 1;
    }
    int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    bool asked = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
                 send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == (ssize_t)sizeof request - 1;
    while (asked && len < sizeof text - 1) {
        ssize_t n = recv(fd, text + len, sizeof text - 1 - len, 0);
        if (n <= 0) {
            break;
        }
        len += (size_t)n;
    }
    text[len] = 0;
    freeaddrinfo(found);
    if (fd >= 0) {
        close(fd);
    }
    const char *body = strstr(text, "\r\n\r\n");
    printf("%s", body != NULL ? body + 4 : "no answer\n");
    return len > 12 && strncmp(text + 9, "200", 3) == 0 ? 0 : 1;
}
