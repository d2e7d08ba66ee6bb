/* The floor, measured in the same run: one 4 KiB append + fdatasync, one TLS 1.3 round trip on
 * loopback between two threads, and what answering costs a server that does nothing else: 64
 * connections, an event loop, one read and one write of a socket for each request. Prints one JSON
 * line. usage: floor DIR CA CERT KEY */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/harness.h"
#include "bench/tls_client.h"

#define ROUNDS       400
#define ECHO_CLIENTS 64
#define ECHO_ROUNDS  3000 /* of all clients */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_value);
    return values[count / 2];
}

static double sync_us(const char *dir)
{
    static double took[ROUNDS];
    static char page[4096];
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/floor", dir);
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    /* Written once before, as the log's segments are. */
    for (int i = 0; i < ROUNDS; i++) {
        if (pwrite(fd, page, sizeof page, (off_t)i * 4096) != sizeof page) {
            return 0;
        }
    }
    if (fsync(fd) != 0) {
        return 0;
    }
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t start = bench_now_ns();
        if (pwrite(fd, page, sizeof page, (off_t)i * 4096) != sizeof page || fdatasync(fd) != 0) {
            return 0;
        }
        took[i] = (double)(bench_now_ns() - start) / 1000;
    }
    close(fd);
    unlink(path);
    return median(took, ROUNDS);
}

struct echo {
    SSL_CTX *context;
    int listener;
};

static void *echo(void *arg)
{
    struct echo *e = arg;
    char data[512];
    int fd = accept(e->listener, NULL, NULL);
    SSL *ssl = SSL_new(e->context);
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1) {
        for (int n; (n = SSL_read(ssl, data, sizeof data)) > 0;) {
            SSL_write(ssl, data, n);
        }
    }
    return NULL;
}

static double round_trip_us(struct bench_opts *opts)
{
    static double took[ROUNDS];
    static char target[64];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    struct echo e = {SSL_CTX_new(TLS_server_method()), socket(AF_INET, SOCK_STREAM, 0)};
    pthread_t thread;
    char data[256] = "";
    SSL_CTX_use_certificate_file(e.context, opts->cert, SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(e.context, opts->key, SSL_FILETYPE_PEM);
    if (bind(e.listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(e.listener, 1) != 0 ||
        getsockname(e.listener, (struct sockaddr *)&address, &len) != 0) {
        return 0;
    }
    if (pthread_create(&thread, NULL, echo, &e) != 0) {
        return 0;
    }
    (void)snprintf(target, sizeof target, "127.0.0.1:%u", ntohs(address.sin_port));
    opts->target = target;
    tls_client_init(opts, NULL);
    SSL *ssl = tls_client_connect(opts);
    for (int i = 0; ssl != NULL && i < ROUNDS; i++) {
        uint64_t start = bench_now_ns();
        if (SSL_write(ssl, data, sizeof data) <= 0 || SSL_read(ssl, data, sizeof data) <= 0) {
            return 0;
        }
        took[i] = (double)(bench_now_ns() - start) / 1000;
    }
    return ssl == NULL ? 0 : median(took, ROUNDS);
}

/* ---- an echo for 64 clients ---- */

static double thread_cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

struct loop {
    SSL_CTX *context;
    int listener;
    double cpu_us; /* for all requests, connecting left out; 0: it failed */
};

static void *loop_run(void *arg)
{
    struct loop *l = arg;
    struct epoll_event events[ECHO_CLIENTS];
    int poll = epoll_create1(0);
    char data[512];
    for (int i = 0; i < ECHO_CLIENTS; i++) {
        SSL *ssl = SSL_new(l->context);
        int fd = accept(l->listener, NULL, NULL);
        struct epoll_event want = {.events = EPOLLIN, .data.ptr = ssl};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        SSL_set_fd(ssl, fd);
        if (SSL_accept(ssl) != 1 || epoll_ctl(poll, EPOLL_CTL_ADD, fd, &want) != 0) {
            return NULL;
        }
        /* A record is one read; not before, or the first request is read with the handshake. */
        SSL_set_read_ahead(ssl, 1);
    }
    double start = thread_cpu_us();
    for (int left = ECHO_CLIENTS * ECHO_ROUNDS; left > 0;) {
        int count = epoll_wait(poll, events, ECHO_CLIENTS, -1);
        for (int i = 0; i < count; i++) {
            SSL *ssl = events[i].data.ptr;
            if (SSL_read(ssl, data, sizeof data) <= 0 || SSL_write(ssl, data, 256) <= 0) {
                return NULL;
            }
            left--;
        }
    }
    l->cpu_us = thread_cpu_us() - start;
    return NULL;
}

/* Server CPU for each answer of 256 bytes; 0: it failed. */
static double echo_cpu_us(struct bench_opts *opts)
{
    static char target[64];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    struct loop l = {SSL_CTX_new(TLS_server_method()), socket(AF_INET, SOCK_STREAM, 0), 0};
    pthread_t thread;
    SSL *clients[ECHO_CLIENTS];
    char data[512] = "";
    SSL_CTX_use_certificate_file(l.context, opts->cert, SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(l.context, opts->key, SSL_FILETYPE_PEM);
    SSL_CTX_set_num_tickets(l.context, 0);
    if (bind(l.listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(l.listener, ECHO_CLIENTS) != 0 ||
        getsockname(l.listener, (struct sockaddr *)&address, &len) != 0) {
        return 0;
    }
    if (pthread_create(&thread, NULL, loop_run, &l) != 0) {
        return 0;
    }
    (void)snprintf(target, sizeof target, "127.0.0.1:%u", ntohs(address.sin_port));
    opts->target = target;
    for (int i = 0; i < ECHO_CLIENTS; i++) {
        clients[i] = tls_client_connect(opts);
        if (clients[i] == NULL) {
            return 0;
        }
    }
    for (int i = 0; i < ECHO_CLIENTS; i++) {
        SSL_write(clients[i], data, 64);
    }
    for (int round = 1; round <= ECHO_ROUNDS; round++) {
        for (int i = 0; i < ECHO_CLIENTS; i++) {
            if (SSL_read(clients[i], data, sizeof data) <= 0 ||
                (round < ECHO_ROUNDS && SSL_write(clients[i], data, 64) <= 0)) {
                return 0;
            }
        }
    }
    pthread_join(thread, NULL);
    return l.cpu_us / (ECHO_CLIENTS * ECHO_ROUNDS);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: floor DIR CA CERT KEY\n");
        return 2;
    }
    struct bench_opts opts = {.ca = argv[2], .cert = argv[3], .key = argv[4]};
    double sync = sync_us(argv[1]);
    double trip = round_trip_us(&opts);
    double answer = trip > 0 ? echo_cpu_us(&opts) : 0;
    printf(
        "{\"append_4k_fdatasync_us\":%.1f,\"tls_round_trip_us\":%.1f,\"tls_echo_cpu_us\":%.2f}\n",
        sync, trip, answer);
    return sync > 0 && trip > 0 && answer > 0 ? 0 : 1;
}
