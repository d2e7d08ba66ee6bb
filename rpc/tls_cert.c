/* Certificates: loading ours, judging theirs. */
#include <ctype.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sslerr.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "rpc/tls_internal.h"

/* ---- identity: the SAN URI --------------------------------------------------------------------
 */

static bool name_is_good(const char *name, size_t len, enum env_role role)
{
    size_t max = role == ENV_ROLE_NODE ? NODE_NAME_BYTES_MAX : USER_NAME_BYTES_MAX;
    if (len == 0 || len > max) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c == '-' && i > 0);
        bool user =
            role == ENV_ROLE_USER && ((c >= 'A' && c <= 'Z') || c == '.' || c == '_' || c == '@');
        if (!plain && !user) {
            return false;
        }
    }
    return true;
}

/* 1: a cairn URI, well-formed; 0: something else; -1: a malformed cairn URI. */
static int uri_parse(const char *uri, size_t len, struct env_peer *out)
{
    static const char node[] = "cairn://node/";
    static const char user[] = "cairn://user/";
    size_t prefix = sizeof node - 1; /* both are as long */
    static_assert(sizeof node == sizeof user, "one length for both prefixes");
    if (len < 8 || memcmp(uri, "cairn://", 8) != 0) {
        return 0;
    }
    if (len <= prefix) {
        return -1;
    }
    if (memcmp(uri, node, prefix) == 0) {
        out->role = ENV_ROLE_NODE;
    } else if (memcmp(uri, user, prefix) == 0) {
        out->role = ENV_ROLE_USER;
    } else {
        return -1;
    }
    if (!name_is_good(uri + prefix, len - prefix, out->role)) {
        return -1;
    }
    memcpy(out->name, uri + prefix, len - prefix);
    out->name[len - prefix] = '\0';
    return 1;
}

/* Fills role and name. NULL, or what is wrong. */
static const char *identity_of(X509 *cert, struct env_peer *out)
{
    struct env_peer found = {.role = ENV_ROLE_NONE};
    const char *cause = NULL;
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int count = names == NULL ? 0 : sk_GENERAL_NAME_num(names);
    int uris = 0;
    for (int i = 0; i < count && cause == NULL; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI) {
            continue;
        }
        const ASN1_IA5STRING *uri = name->d.uniformResourceIdentifier;
        int rv = uri_parse((const char *)ASN1_STRING_get0_data(uri),
                           (size_t)ASN1_STRING_length(uri), &found);
        if (rv < 0) {
            cause = "certificate has a malformed cairn:// SAN URI";
        }
        uris += rv > 0;
    }
    GENERAL_NAMES_free(names);
    if (cause == NULL && uris == 0) {
        cause = "certificate has no SAN URI cairn://node/NAME or cairn://user/NAME";
    }
    if (cause == NULL && uris > 1) {
        cause = "certificate has more than one cairn:// SAN URI";
    }
    if (cause == NULL) {
        out->role = found.role;
        memcpy(out->name, found.name, sizeof out->name);
    }
    return cause;
}

/* OpenSSL checks the extended key usage only where there is one. */
static bool may_be(X509 *cert, uint32_t usage)
{
    return (X509_get_extension_flags(cert) & EXFLAG_XKUSAGE) != 0 &&
           (X509_get_extended_key_usage(cert) & usage) != 0;
}

/* ---- judging the peer's, inside the handshake, so that it gets an alert -------------------------
 */

static const char *judge(struct env_conn *c, X509 *cert, char *text, size_t size)
{
    struct env_peer peer = {.role = ENV_ROLE_NONE};
    const char *cause = identity_of(cert, &peer);
    if (cause != NULL) {
        return cause;
    }
    if (!may_be(cert, c->incoming ? XKU_SSL_CLIENT : XKU_SSL_SERVER)) {
        (void)snprintf(text, size, "certificate of '%s' lacks the extended key usage %s", peer.name,
                       c->incoming ? "clientAuth" : "serverAuth");
        return text;
    }
    if (c->expected_role != ENV_ROLE_NONE && c->expected_role != peer.role) {
        (void)snprintf(text, size, "certificate is that of the %s '%s', not of a %s",
                       peer.role == ENV_ROLE_NODE ? "node" : "user", peer.name,
                       c->expected_role == ENV_ROLE_NODE ? "node" : "user");
        return text;
    }
    if (c->expected_name[0] != '\0' && strcmp(c->expected_name, peer.name) != 0) {
        (void)snprintf(text, size, "certificate is that of '%s', but '%s' was expected at %s",
                       peer.name, c->expected_name, c->peer.address);
        return text;
    }
    c->peer.role = peer.role;
    memcpy(c->peer.name, peer.name, sizeof c->peer.name);
    return NULL;
}

static int on_verify(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct env_conn *c = SSL_get_app_data(ssl);
    X509 *cert = X509_STORE_CTX_get_current_cert(store);
    if (ok == 0) {
        char subject[96] = "";
        if (cert != NULL) {
            (void)X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, subject,
                                            sizeof subject);
        }
        for (char *at = subject; *at != '\0'; at++) {
            if ((unsigned char)*at < 0x20 || (unsigned char)*at > 0x7e || *at == '"') {
                *at = '?';
            }
        }
        (void)snprintf(c->cause, sizeof c->cause, "certificate refused: %s (CN=%s)",
                       X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)), subject);
        return 0;
    }
    if (X509_STORE_CTX_get_error_depth(store) > 0) {
        return 1;
    }
    char text[TLS_CAUSE_BYTES];
    const char *cause = judge(c, cert, text, sizeof text);
    if (cause != NULL) {
        (void)snprintf(c->cause, sizeof c->cause, "%s", cause);
        X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
        return 0;
    }
    return 1;
}

/* ---- what went wrong ---------------------------------------------------------------------------
 */

bool tls__cause_is_our_certificate(void)
{
    switch (ERR_GET_REASON(ERR_peek_error())) {
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
        return true;
    default:
        return false;
    }
}

void tls__cause(struct env_conn *c, char *out, size_t size)
{
    unsigned long code = ERR_peek_error();
    const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);
    bool alert = tls__cause_is_our_certificate();
    switch (code == 0 ? 0 : ERR_GET_REASON(code)) {
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
        (void)snprintf(out, size, "plaintext HTTP where TLS 1.3 is required");
        break;
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_BAD_RECORD_TYPE:
        (void)snprintf(out, size, "not TLS: plaintext where TLS 1.3 is required");
        break;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
        (void)snprintf(out, size, "an older TLS version: TLS 1.3 is required");
        break;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        (void)snprintf(out, size, "no certificate: a client certificate is required");
        break;
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        (void)snprintf(out, size, "%s", c->cause[0] != '\0' ? c->cause : "certificate refused");
        break;
    default:
        if (alert) {
            (void)snprintf(out, size, "the peer refused our certificate '%s': %s",
                           c->tls->self.name, reason == NULL ? "no reason given" : reason);
        } else {
            (void)snprintf(out, size, "TLS failed: %s", reason == NULL ? "unknown" : reason);
        }
    }
    ERR_clear_error();
}

/* ---- loading ours ------------------------------------------------------------------------------
 */

static int openssl_failed(struct err_text *e, const char *what, const char *file)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);
    int rv =
        err_set(e, ERR_TLS, "%s %s: %s", what, file, reason == NULL ? "unknown error" : reason);
    ERR_clear_error();
    return rv;
}

/* A file that can't be opened, said before OpenSSL wraps it into its own words. */
static int readable(const char *what, const char *file, struct err_text *e)
{
    FILE *f = fopen(file, "rbe");
    if (f == NULL) {
        int err = errno;
        return err_set(e, err_from_errno(err), "can't open the %s %s: %s", what, file,
                       strerror(err));
    }
    (void)fclose(f);
    return 0;
}

static int files_check(const struct tls *t, struct err_text *e)
{
    int rv = readable("CA file", t->ca_file, e);
    rv = rv != 0 ? rv : readable("certificate", t->cert_file, e);
    return rv != 0 ? rv : readable("private key", t->key_file, e);
}

static int64_t seconds_of(const ASN1_TIME *time)
{
    struct tm tm = {0};
    if (ASN1_TIME_to_tm(time, &tm) != 1) {
        return 0;
    }
    return (int64_t)timegm(&tm);
}

/* Our own certificate judged as a peer will: better now than at the first connection. */
static int self_check(const struct tls *t, SSL_CTX *ctx, struct env_peer *self, int64_t *not_after,
                      struct err_text *e)
{
    X509 *cert = SSL_CTX_get0_certificate(ctx);
    const char *cause = identity_of(cert, self);
    if (cause != NULL) {
        return err_set(e, ERR_TLS, "%s: %s", t->cert_file, cause);
    }
    if (!may_be(cert, XKU_SSL_CLIENT) ||
        (self->role == ENV_ROLE_NODE && !may_be(cert, XKU_SSL_SERVER))) {
        return err_set(e, ERR_TLS, "%s: lacks the extended key usage %s", t->cert_file,
                       self->role == ENV_ROLE_NODE ? "serverAuth and clientAuth" : "clientAuth");
    }
    *not_after = seconds_of(X509_get0_notAfter(cert));
    X509_STORE_CTX *store = X509_STORE_CTX_new();
    STACK_OF(X509) *chain = NULL;
    (void)SSL_CTX_get_extra_chain_certs(ctx, &chain);
    if (store == NULL ||
        X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(ctx), cert, chain) != 1) {
        X509_STORE_CTX_free(store);
        return openssl_failed(e, "can't check the certificate", t->cert_file);
    }
    int rv = 0;
    if (X509_verify_cert(store) != 1) {
        rv = err_set(e, ERR_TLS, "%s is not valid under the CA in %s: %s", t->cert_file, t->ca_file,
                     X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)));
    }
    X509_STORE_CTX_free(store);
    ERR_clear_error();
    return rv;
}

static int context_fill(const struct tls *t, SSL_CTX *ctx, struct err_text *e)
{
    static const unsigned char session_context[] = "cairn";
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                      "TLS_CHACHA20_POLY1305_SHA256") != 1 ||
        SSL_CTX_set1_groups_list(ctx, "X25519:P-256") != 1 ||
        SSL_CTX_set_session_id_context(ctx, session_context, sizeof session_context - 1) != 1 ||
        SSL_CTX_set_num_tickets(ctx, 0) != 1) {
        return openssl_failed(e, "can't set up TLS 1.3 with", t->cert_file);
    }
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    /* An idle connection gives its 34 KiB of record buffers back. */
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_max_cert_list(ctx, 32 << 10);
    SSL_CTX_set_verify_depth(ctx, 4);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, on_verify);
    if (SSL_CTX_load_verify_file(ctx, t->ca_file) != 1) {
        return openssl_failed(e, "no CA certificate (PEM) in", t->ca_file);
    }
    if (SSL_CTX_use_certificate_chain_file(ctx, t->cert_file) != 1) {
        return openssl_failed(e, "no certificate (PEM) in", t->cert_file);
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, t->key_file, SSL_FILETYPE_PEM) != 1) {
        return openssl_failed(e, "no private key of that certificate (PEM) in", t->key_file);
    }
    if (SSL_CTX_check_private_key(ctx) != 1) {
        return openssl_failed(e, "the private key does not fit the certificate:", t->key_file);
    }
    return 0;
}

int tls__context(struct tls *t, SSL_CTX **out, struct env_peer *self, int64_t *not_after,
                 struct err_text *e)
{
    *out = NULL;
    int rv = files_check(t, e);
    if (rv != 0) {
        return rv;
    }
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    if (ctx == NULL) {
        return openssl_failed(e, "can't start OpenSSL for", t->cert_file);
    }
    rv = context_fill(t, ctx, e);
    if (rv == 0) {
        rv = self_check(t, ctx, self, not_after, e);
    }
    if (rv != 0) {
        SSL_CTX_free(ctx);
        return rv;
    }
    *out = ctx;
    return 0;
}
