/* Blocking TLS connections for the peers' load generators. */
#ifndef CAIRN_BENCH_TLS_CLIENT_H
#define CAIRN_BENCH_TLS_CLIENT_H

#include <openssl/ssl.h>

#include "bench/harness.h"

/* Loads the certificates of opts; alpn (NULL: none) such as "h2". Ends the process when it can't.
 */
void tls_client_init(const struct bench_opts *opts, const char *alpn);
/* Connects to opts->target and shakes hands; NULL after saying why. thread: any */
SSL *tls_client_connect(const struct bench_opts *opts);

#endif
