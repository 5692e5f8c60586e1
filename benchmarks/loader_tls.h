/*
 * What loader.c does with a connection that is TLS 1.3, by OpenSSL; loader_tcp.h says what each
 * function is for.
 *
 * Every server must do the same work, so a handshake is an error unless it was a full one with
 * this cipher, this certificate and this number of session tickets.
 *
 * OpenSSL reads from the socket, as much as there is at a time. It writes to memory, so a message
 * is one send here, as over TCP, though it be several records.
 */
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

enum {
    TRANSPORT_ARGUMENTS = 1,
    TICKETS = 2,            /* what OpenSSL's servers send unless told otherwise */
    RECORD = 16384,
    RECORD_EXTRA = 256      /* more than a record is longer than its contents */
};
#define TRANSPORT_USAGE " CERTIFICATE"
#define CIPHER "TLS_AES_256_GCM_SHA384"
/* The first is used. Newer releases of OpenSSL would begin with another, which costs more. */
#define GROUPS "X25519:P-256"

static SSL_CTX *context;
static X509 *expected_certificate;

static void fail_tls(const char *what)
{
    unsigned long code = ERR_get_error();
    const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);
    fail("%s: %s", what, reason != NULL ? reason : errno != 0 ? strerror(errno) : "no reason");
}

static int count_ticket(SSL *ssl, SSL_SESSION *session)
{
    struct connection *connection = SSL_get_app_data(ssl);
    (void)session;
    connection->tickets++;
    return 0;               /* not kept */
}

/* In place of a verification, which costs more and is no stricter. */
static int compare_certificate(X509_STORE_CTX *store, void *unused)
{
    (void)unused;
    if (X509_cmp(X509_STORE_CTX_get0_cert(store), expected_certificate) != 0)
        fail("the server has another certificate");
    return 1;
}

static void transport_prepare(char **arguments)
{
    BIO *file = BIO_new_file(arguments[0], "r");
    if (file != NULL)
        expected_certificate = PEM_read_bio_X509(file, NULL, NULL, NULL);
    if (expected_certificate == NULL)
        fail_tls(arguments[0]);
    BIO_free(file);

    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL ||
        !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, CIPHER ":TLS_CHACHA20_POLY1305_SHA256:"
                                           "TLS_AES_128_GCM_SHA256") ||
        !SSL_CTX_set1_groups_list(context, GROUPS))
        fail_tls("the context");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(context, compare_certificate, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, count_ticket);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE);
    SSL_CTX_set_read_ahead(context, 1);
    size_t records = (message_size + RECORD - 1) / RECORD;
    if (records > 1)
        SSL_CTX_set_default_read_buffer_len(context, records * (RECORD + RECORD_EXTRA));
    else
        SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
}

static void transport_open(struct connection *connection)
{
    SSL *ssl = SSL_new(context);
    BIO *incoming = BIO_new_socket(connection->fd, BIO_NOCLOSE);
    BIO *outgoing = BIO_new(BIO_s_mem());
    if (ssl == NULL || incoming == NULL || outgoing == NULL)
        fail("no memory for TLS");
    int flags = fcntl(connection->fd, F_GETFL);
    if (flags < 0 || fcntl(connection->fd, F_SETFL, flags | O_NONBLOCK) < 0)
        fail("fcntl: %s", strerror(errno));
    SSL_set0_rbio(ssl, incoming);
    SSL_set0_wbio(ssl, outgoing);
    SSL_set_app_data(ssl, connection);
    SSL_set_connect_state(ssl);
    connection->ssl = ssl;
    connection->flushed = 0;
    connection->tickets = 0;
}

static int transport_opening(const struct connection *connection)
{
    return !SSL_is_init_finished(connection->ssl);
}

/* Sends what OpenSSL has written; returns 1 if the kernel did not take all of it. */
static int flush(struct connection *connection)
{
    char *bytes;
    BIO *outgoing = SSL_get_wbio(connection->ssl);
    size_t size = (size_t)BIO_get_mem_data(outgoing, &bytes);
    if (size == 0)
        return 0;
    ssize_t count = send(connection->fd, bytes + connection->flushed, size - connection->flushed,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0) {
        if (errno != EAGAIN)
            fail("send: %s", strerror(errno));
        count = 0;
    }
    connection->flushed += (size_t)count;
    if (connection->flushed < size)
        return 1;
    (void)BIO_reset(outgoing);
    connection->flushed = 0;
    return 0;
}

static void check_handshake(SSL *ssl)
{
    if (strcmp(SSL_get_cipher_name(ssl), CIPHER) != 0)
        fail("the server chose %s, not " CIPHER, SSL_get_cipher_name(ssl));
    if (SSL_session_reused(ssl))
        fail("the server resumed a session");
}

static int transport_send(struct connection *connection)
{
    SSL *ssl = connection->ssl;
    if (!SSL_is_init_finished(ssl)) {
        ERR_clear_error();
        errno = 0;
        int done = SSL_do_handshake(ssl);
        if (done != 1 && SSL_get_error(ssl, done) != SSL_ERROR_WANT_READ)
            fail_tls("the handshake");
        if (done != 1)
            return flush(connection);
        check_handshake(ssl);
        /* Most clients send their last handshake message by itself, before they know any data. */
        if (flush(connection))
            return 1;
    }
    while (connection->message != NULL && connection->sent < message_size) {
        int count = SSL_write(ssl, connection->message + connection->sent,
                              (int)(message_size - connection->sent));
        if (count <= 0)
            fail_tls("SSL_write");
        connection->sent += (size_t)count;
    }
    return flush(connection);
}

/* After the server's close_notify only the end of TCP may come. */
static ssize_t receive_end(struct connection *connection)
{
    char byte;
    ssize_t count = recv(connection->fd, &byte, 1, MSG_DONTWAIT);
    if (count > 0)
        fail("the server sent something after its close_notify");
    if (count < 0 && errno != EAGAIN)
        fail("recv: %s", strerror(errno));
    return count;
}

static ssize_t transport_receive(struct connection *connection, char *bytes, size_t size)
{
    SSL *ssl = connection->ssl;
    if (SSL_get_shutdown(ssl) & SSL_RECEIVED_SHUTDOWN)
        return receive_end(connection);
    ERR_clear_error();
    errno = 0;
    int count = SSL_read(ssl, bytes, (int)size);
    if (count > 0) {
        if (connection->tickets != TICKETS)
            fail("the server sent %d session tickets, not %d", connection->tickets, TICKETS);
        return count;
    }
    switch (SSL_get_error(ssl, count)) {
    case SSL_ERROR_WANT_READ:
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return receive_end(connection);
    default:
        fail_tls("SSL_read");
        return -1;
    }
}

static int transport_has_more(const struct connection *connection)
{
    return SSL_has_pending(connection->ssl);
}

/* Close_notify and the end of TCP: what a client that is done sends, and the TIME_WAIT is ours. */
static int transport_end(struct connection *connection)
{
    if (SSL_shutdown(connection->ssl) < 0)
        fail_tls("SSL_shutdown");
    if (flush(connection))
        fail("the kernel did not take a close_notify");
    if (shutdown(connection->fd, SHUT_WR) < 0)
        fail("shutdown: %s", strerror(errno));
    return 1;
}

static void transport_close(struct connection *connection)
{
    SSL_free(connection->ssl);
    connection->ssl = NULL;
}
