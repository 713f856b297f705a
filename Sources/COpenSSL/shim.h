// OpenSSL, and inline functions for those of its macros that Swift cannot see.
#pragma once
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

// Renegotiation is an attack surface that no HTTP client needs. The server's order of ciphers counts, but a client that puts
// ChaCha20 first has no AES in hardware.
static const uint64_t swl_server_options =
    SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA;
static const uint64_t swl_client_options = SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION;

static inline void swl_on_server_name(SSL_CTX *context, int (*callback)(SSL *, int *, void *), void *argument) {
    SSL_CTX_set_tlsext_servername_callback(context, callback);
    SSL_CTX_set_tlsext_servername_arg(context, argument);
}
static inline int swl_set_server_name(SSL *session, const char *name) { return (int)SSL_set_tlsext_host_name(session, name); }
static inline int swl_set_groups(SSL_CTX *context, const char *list) { return (int)SSL_CTX_set1_groups_list(context, list); }
static inline int swl_add_chain_certificate(SSL_CTX *context, X509 *certificate) {
    return (int)SSL_CTX_add1_chain_cert(context, certificate);
}
static inline int swl_expect_address(SSL *session, const char *address) {
    return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session), address);
}

// RFC 5077, section 4: a ticket is encrypted with AES-256-CBC and authenticated with HMAC-SHA256.
static inline int swl_arm_ticket(
    EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, const unsigned char *cipher_key, unsigned char *mac_key, unsigned char *iv, int encrypts) {
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, mac_key, 32),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    return EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, cipher_key, iv, encrypts) == 1 &&
           EVP_MAC_CTX_set_params(mac, parameters) == 1;
}

// HMAC-SHA256 with one key for many messages. NULL: OpenSSL has no memory. The caller frees it (EVP_MAC_CTX_free).
static inline EVP_MAC_CTX *swl_hmac_open(const unsigned char *key, size_t count) {
    EVP_MAC *algorithm = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *context = algorithm == NULL ? NULL : EVP_MAC_CTX_new(algorithm);
    EVP_MAC_free(algorithm);
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    if (context != NULL && EVP_MAC_init(context, key, count, parameters) != 1) {
        EVP_MAC_CTX_free(context);
        return NULL;
    }
    return context;
}
// Writes 32 bytes; 1 when it could.
static inline int swl_hmac(EVP_MAC_CTX *context, const unsigned char *bytes, size_t count, unsigned char *digest) {
    size_t written = 0;
    return EVP_MAC_init(context, NULL, 0, NULL) == 1 && EVP_MAC_update(context, bytes, count) == 1 &&
           EVP_MAC_final(context, digest, &written, 32) == 1 && written == 32;
}

static inline GENERAL_NAMES *swl_alternative_names(const X509 *certificate) {
    return (GENERAL_NAMES *)X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
}
static inline int swl_name_count(const GENERAL_NAMES *names) { return names == NULL ? 0 : sk_GENERAL_NAME_num(names); }
// The DNS name at `index` and its length; -1 when it is a name of another kind, or holds a NUL.
static inline int swl_dns_name(const GENERAL_NAMES *names, int index, const char **text) {
    const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, index);
    if (name->type != GEN_DNS) return -1;
    int length = ASN1_STRING_length(name->d.dNSName);
    *text = (const char *)ASN1_STRING_get0_data(name->d.dNSName);
    return memchr(*text, 0, (size_t)length) ? -1 : length;
}
static inline int64_t swl_expiry(const X509 *certificate) {
    struct tm time;
    return ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) == 1 ? (int64_t)timegm(&time) : 0;
}
// RFC 2253. Returns the length, 0 when there is none.
static inline int swl_subject(const X509 *certificate, char *text, int capacity) {
    BIO *memory = BIO_new(BIO_s_mem());
    if (memory == NULL) return 0;
    int length = 0;
    if (X509_NAME_print_ex(memory, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) >= 0) {
        length = BIO_read(memory, text, capacity);
    }
    BIO_free(memory);
    return length < 0 ? 0 : length;
}
static inline int swl_reason(unsigned long code) { return ERR_GET_REASON(code); }
