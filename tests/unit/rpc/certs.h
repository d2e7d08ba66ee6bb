/* Certificates of tests, made with OpenSSL in memory and written as PEM. Any failure aborts. */
#ifndef CAIRN_TESTS_RPC_CERTS_H
#define CAIRN_TESTS_RPC_CERTS_H

#include <openssl/x509.h>

struct test_ca {
    EVP_PKEY *key;
    X509 *cert;
};

enum cert_usage { CERT_SERVER = 1, CERT_CLIENT = 2 };

void test_ca_open(struct test_ca *ca, const char *name);
void test_ca_close(struct test_ca *ca);
void test_ca_write(const struct test_ca *ca, const char *path);
/* san: as OpenSSL's configuration has it ("URI:cairn://node/n1"), or NULL. usage 0: no EKU. from_s,
 * until_s: seconds relative to now. */
void test_cert_write(const struct test_ca *ca, const char *san, int usage, long from_s,
                     long until_s, const char *cert_path, const char *key_path);

#endif
