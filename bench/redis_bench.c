/* The same load on Redis: per batch `inflight` SETs and one WAIT 1 (put), or `inflight` GETs (get),
 * over TLS with a client certificate. --target host:port of the primary. One connection a client.
 */
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/fibers.h"
#include "bench/harness.h"
#include "bench/tls_client.h"

static struct bench_opts opts;

struct reader {
    SSL *ssl;
    char data[1 << 16];
    size_t at, len;
};

static int read_byte(struct reader *r)
{
    if (r->at == r->len) {
        r->at = 0;
        r->len = tls_client_read(r->ssl, r->data, sizeof r->data);
        if (r->len == 0) {
            return -1;
        }
    }
    return (unsigned char)r->data[r->at++];
}

/* One reply of RESP2: the number of an integer or a bulk string's length, -2 on errors. */
static long read_reply(struct reader *r)
{
    char line[64];
    size_t n = 0;
    int c;
    while ((c = read_byte(r)) >= 0 && c != '\n') {
        if (n + 1 < sizeof line) {
            line[n++] = (char)c;
        }
    }
    line[n] = 0;
    if (c < 0 || line[0] == '-') {
        return -2;
    }
    long value = line[0] == '+' ? 0 : atol(line + 1);
    for (long left = line[0] == '$' && value >= 0 ? value + 2 : 0; left > 0; left--) {
        if (read_byte(r) < 0) {
            return -2;
        }
    }
    return value;
}

static void run(unsigned id)
{
    struct reader *r = calloc(1, sizeof *r);
    r->ssl = tls_client_connect(&opts);
    if (r->ssl == NULL) {
        bench_failed(id, "redis: no connection");
        free(r);
        return;
    }
    fibers_watch(SSL_get_fd(r->ssl));
    size_t room = (size_t)opts.inflight * (opts.bytes + 128) + 128;
    char *out = malloc(room);
    bool put = opts.operation[0] == 'p';
    unsigned key = 0;
    bool filling = !put;
    unsigned filled = 0;
    while (!bench_stopping()) {
        size_t len = 0;
        uint64_t started = bench_now_ns();
        bool set = put || filling;
        for (unsigned i = 0; i < opts.inflight; i++) {
            char name[32];
            int n = snprintf(name, sizeof name, "k%u:%u", id, key++ % opts.keys);
            if (set) {
                len += (size_t)snprintf(out + len, room - len,
                                        "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%u\r\n", n, name,
                                        opts.bytes);
                memset(out + len, 'x', opts.bytes);
                len += opts.bytes;
                len += (size_t)snprintf(out + len, room - len, "\r\n");
            } else {
                len += (size_t)snprintf(out + len, room - len, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n",
                                        n, name);
            }
        }
        if (set) {
            len += (size_t)snprintf(out + len, room - len,
                                    "*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n");
        }
        if (!tls_client_write(r->ssl, out, len)) {
            bench_failed(id, "redis: write failed");
            break;
        }
        bool ok = true;
        for (unsigned i = 0; i < opts.inflight; i++) {
            long reply = read_reply(r);
            ok = ok && (set ? reply == 0 : reply == (long)opts.bytes);
        }
        ok = ok && (!set || read_reply(r) >= 1);
        if (!ok) {
            bench_failed(id, "redis: unexpected reply");
            break;
        }
        if (filling) {
            filled += opts.inflight;
            filling = filled < opts.keys;
            continue;
        }
        bench_done(id, started, opts.inflight);
    }
    free(out);
    free(r);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"put", "get", NULL};
    (void)bench_parse(argc, argv, names, &opts);
    tls_client_init(&opts, NULL);
    fibers_start(opts.clients, run);
    _exit(bench_window(&opts, "redis"));
}
