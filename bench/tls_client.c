#include "bench/tls_client.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/fibers.h"

static SSL_CTX *context;
static unsigned char protocols[16];
static unsigned protocols_len;

void tls_client_init(const struct bench_opts *opts, const char *alpn)
{
    signal(SIGPIPE, SIG_IGN);
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || SSL_CTX_load_verify_locations(context, opts->ca, NULL) != 1 ||
        SSL_CTX_use_certificate_file(context, opts->cert, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, opts->key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (alpn != NULL) {
        protocols[0] = (unsigned char)strlen(alpn);
        protocols_len = protocols[0] + 1u;
        memcpy(protocols + 1, alpn, protocols[0]);
    }
}

SSL *tls_client_connect(const struct bench_opts *opts)
{
    char host[128];
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    const char *colon = strrchr(opts->target, ':');
    int one = 1;
    if (colon == NULL || (size_t)(colon - opts->target) >= sizeof host) {
        return NULL;
    }
    memcpy(host, opts->target, (size_t)(colon - opts->target));
    host[colon - opts->target] = 0;
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0) {
        return NULL;
    }
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int rv = fd < 0 ? -1 : connect(fd, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    SSL *ssl = rv == 0 ? SSL_new(context) : NULL;
    if (ssl == NULL) {
        perror(opts->target);
        return NULL;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    SSL_set_fd(ssl, fd);
    if (protocols_len > 0) {
        SSL_set_alpn_protos(ssl, protocols, protocols_len);
    }
    if (SSL_connect(ssl) != 1) {
        ERR_print_errors_fp(stderr);
        return NULL;
    }
    return ssl;
}

static bool wants_to_wait(SSL *ssl, int rv)
{
    int error = SSL_get_error(ssl, rv);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

bool tls_client_write(SSL *ssl, const void *bytes, size_t len)
{
    int n = SSL_write(ssl, bytes, (int)len);
    while (n <= 0 && wants_to_wait(ssl, n)) {
        fibers_wait();
        n = SSL_write(ssl, bytes, (int)len);
    }
    return n == (int)len;
}

size_t tls_client_read(SSL *ssl, void *bytes, size_t room)
{
    int n = SSL_read(ssl, bytes, (int)room);
    while (n <= 0 && wants_to_wait(ssl, n)) {
        fibers_wait();
        n = SSL_read(ssl, bytes, (int)room);
    }
    return n > 0 ? (size_t)n : 0;
}
