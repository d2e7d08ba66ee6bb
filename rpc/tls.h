/* The real transport: TCP by libuv, TLS 1.3 by OpenSSL over memory BIOs, certificates required on
 * both sides.
 *
 * Attached to a real environment; fills the transport entries of its table. TLS 1.3 only, no
 * tickets, no resumption, no 0-RTT; peer identity = the SAN URI "cairn://node/NAME" or
 * "cairn://user/NAME"; a server certificate needs EKU serverAuth, a client one clientAuth.
 * Handshakes end within 5 s. Every refusal is one clear log line. */
#ifndef CAIRN_RPC_TLS_H
#define CAIRN_RPC_TLS_H

#include "base/env.h"

struct tls_opts {
    const char *ca_file, *cert_file, *key_file; /* PEM; copied */
};

/* ERR_TLS / ERR_NOTFOUND / ERR_DENIED with a text that names the file and what is wrong with it. */
int tls_attach(struct env *env, const struct tls_opts *opts, struct err_text *e);
/* Loads the files again; on error the old context stays in use. New handshakes use the new one. */
int tls_reload(struct env *env, struct err_text *e);
/* The name of our own certificate's identity and its notAfter (seconds since 1970). */
int tls_self(struct env *env, struct env_peer *out, int64_t *not_after);
/* A number that follows from our private key, and that nobody has who hasn't the key. 0: it can't
 * be told. */
uint64_t tls_secret(struct env *env);
/* All connections and listeners were closed before; those whose on_close is still to come get it.
 */
void tls_detach(struct env *env);

#endif
