/*
 * What loader.c does with a connection that is plain TCP; loader_tls.h is the other way.
 *
 *   transport_prepare    once, with the arguments after those of the mode
 *   transport_open       a socket has connected
 *   transport_opening    whether a handshake is under way: any event then calls for a send
 *   transport_send       sends what is left of the message; whether something is left still
 *   transport_receive    the number of bytes received, 0 at the end, -1 for nothing now
 *   transport_has_more   whether bytes wait that epoll does not know of
 *   transport_end        begins a clean end; whether the server has to answer it
 *   transport_close      the socket is about to be closed
 */
enum { TRANSPORT_ARGUMENTS = 0 };
#define TRANSPORT_USAGE ""

static void transport_prepare(char **arguments)
{
    (void)arguments;
}

static void transport_open(struct connection *connection)
{
    (void)connection;
}

static int transport_opening(const struct connection *connection)
{
    (void)connection;
    return 0;
}

static int transport_send(struct connection *connection)
{
    ssize_t count = send(connection->fd, connection->message + connection->sent,
                         message_size - connection->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0) {
        if (errno != EAGAIN)
            fail("send: %s", strerror(errno));
        count = 0;
    }
    connection->sent += (size_t)count;
    return connection->sent < message_size;
}

static ssize_t transport_receive(struct connection *connection, char *bytes, size_t size)
{
    ssize_t count = recv(connection->fd, bytes, size, MSG_DONTWAIT);
    if (count < 0 && errno != EAGAIN)
        fail("recv: %s", strerror(errno));
    return count;
}

static int transport_has_more(const struct connection *connection)
{
    (void)connection;
    return 0;
}

static int transport_end(struct connection *connection)
{
    (void)connection;
    return 0;
}

static void transport_close(struct connection *connection)
{
    (void)connection;
}
