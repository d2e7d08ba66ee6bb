/* The floor, measured in the same run: one 4 KiB append + fdatasync, and one TLS 1.3 round trip on
 * loopback between two threads. Prints one JSON line. usage: floor DIR CA CERT KEY */
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/harness.h"
#include "bench/tls_client.h"

#define ROUNDS 400

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
    snprintf(path, sizeof path, "%s/floor", dir);
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    /* Written once before, as the log's segments are. */
    for (int i = 0; i < ROUNDS; i++) {
        if (pwrite(fd, page, sizeof page, (off_t)i * 4096) != sizeof page) {
            return 0;
        }
    }
    fsync(fd);
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
    pthread_create(&thread, NULL, echo, &e);
    snprintf(target, sizeof target, "127.0.0.1:%u", ntohs(address.sin_port));
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

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: floor DIR CA CERT KEY\n");
        return 2;
    }
    struct bench_opts opts = {.ca = argv[2], .cert = argv[3], .key = argv[4]};
    double sync = sync_us(argv[1]);
    double trip = round_trip_us(&opts);
    printf("{\"append_4k_fdatasync_us\":%.1f,\"tls_round_trip_us\":%.1f}\n", sync, trip);
    return sync > 0 && trip > 0 ? 0 : 1;
}
