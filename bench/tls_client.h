/* TLS connections for the peers' load generators. */
#ifndef CAIRN_BENCH_TLS_CLIENT_H
#define CAIRN_BENCH_TLS_CLIENT_H

#include <openssl/ssl.h>

#include "bench/harness.h"

/* Loads the certificates of opts; alpn (NULL: none) such as "h2". Ends the process when it can't.
 */
void tls_client_init(const struct bench_opts *opts, const char *alpn);
/* Connects to opts->target and shakes hands; NULL after saying why. thread: any */
SSL *tls_client_connect(const struct bench_opts *opts);
/* On a fiber, which has given the connection to fibers_watch(): all of `len`, or what has come, at
 * least a byte; false, 0 on errors and at the end. */
bool tls_client_write(SSL *ssl, const void *bytes, size_t len);
size_t tls_client_read(SSL *ssl, void *bytes, size_t room);

#endif
