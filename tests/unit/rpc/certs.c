#include "certs.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/assert.h"

static void extension_add(X509 *cert, const X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, (X509 *)issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert(x != NULL);
    int rv = X509_add_ext(cert, x, -1);
    assert(rv == 1);
    X509_EXTENSION_free(x);
}

static X509 *cert_new(EVP_PKEY *key, const char *name, const X509 *issuer, long from_s,
                      long until_s)
{
    static long serial = 1;
    X509 *cert = X509_new();
    assert(cert != NULL);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(cert), from_s);
    X509_gmtime_adj(X509_getm_notAfter(cert), until_s);
    X509_set_pubkey(cert, key);
    X509_NAME *subject = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(cert, issuer == NULL ? subject : X509_get_subject_name(issuer));
    return cert;
}

void test_ca_open(struct test_ca *ca, const char *name)
{
    ca->key = EVP_EC_gen("P-256");
    assert(ca->key != NULL);
    ca->cert = cert_new(ca->key, name, NULL, -86400, 86400);
    extension_add(ca->cert, ca->cert, NID_basic_constraints, "critical,CA:TRUE");
    extension_add(ca->cert, ca->cert, NID_subject_key_identifier, "hash");
    int rv = X509_sign(ca->cert, ca->key, EVP_sha256());
    assert(rv > 0);
}

void test_ca_close(struct test_ca *ca)
{
    X509_free(ca->cert);
    EVP_PKEY_free(ca->key);
}

static void pem_write(const char *path, X509 *cert, EVP_PKEY *key)
{
    FILE *f = fopen(path, "we");
    assert(f != NULL);
    int rv = cert != NULL ? PEM_write_X509(f, cert)
                          : PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    assert(rv == 1);
    rv = fclose(f);
    assert(rv == 0);
}

void test_ca_write(const struct test_ca *ca, const char *path)
{
    pem_write(path, ca->cert, NULL);
}

void test_cert_write(const struct test_ca *ca, const char *san, int usage, long from_s,
                     long until_s, const char *cert_path, const char *key_path)
{
    static const char *const usages[] = {NULL, "serverAuth", "clientAuth", "serverAuth,clientAuth"};
    EVP_PKEY *key = EVP_EC_gen("P-256");
    assert(key != NULL);
    X509 *cert = cert_new(key, "test", ca->cert, from_s, until_s);
    if (san != NULL) {
        extension_add(cert, ca->cert, NID_subject_alt_name, san);
    }
    if (usage != 0) {
        extension_add(cert, ca->cert, NID_ext_key_usage, usages[usage]);
    }
    int rv = X509_sign(cert, ca->key, EVP_sha256());
    assert(rv > 0);
    pem_write(cert_path, cert, NULL);
    pem_write(key_path, NULL, key);
    X509_free(cert);
    EVP_PKEY_free(key);
}
