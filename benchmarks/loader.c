/*
 * The load for benchmarks/bench.py: one thread, one epoll, loopback only.
 *
 *   loader echo  PORT CONNECTIONS SIZE
 *   loader churn PORT PARALLEL
 *   loader idle  PORT CONNECTIONS
 *
 * Compiled with -DTLS it speaks TLS 1.3 and wants one more argument, the file of the certificate
 * that the server must have.
 *
 * The conversation with the harness, on standard input and output:
 *
 *   loader: "ready"                       connections open, nothing in flight
 *   harness: "OPERATIONS MILLISECONDS"    run a span, up to so many operations or so long
 *   loader: "done key=value…"             span over, nothing in flight
 *   ...                                   more spans
 *   harness: end of file                  close everything and leave
 *
 * echo:  every connection has one message in flight.  The bytes that come back are compared
 *        with those sent; message k of connection c starts at another place of the pattern,
 *        so an answer that belongs to another connection or message does not pass.
 * churn: connect, send one byte, read it, close; PARALLEL of them at any time.  With TLS, a full
 *        handshake, and an operation is over when the server has closed its side too.
 * idle:  open the connections and hold them.  Each echoes one byte first: a connection that
 *        waits in the listen queue looks open from here, but costs the server nothing.
 *
 * The client closes first, so the TIME_WAIT is its own.  Its addresses are spread over
 * 127.0.1.1 to 127.0.1.64, so no run waits for a free port.  Whatever happens, the process ends
 * after LIFE seconds; a server that answers nothing for STALL milliseconds is an error.
 *
 * Exit status: 0 done, 1 an error (told on standard error), 2 wrong arguments, 3 took too long.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum {
    LIFE = 300,             /* seconds the process may live */
    MAX_SPAN = 60000,       /* milliseconds that a span may be told to last */
    STALL = 10000,          /* milliseconds without any answer */
    BATCH = 1024,           /* events taken from epoll at once */
    SOURCES = 64,           /* source addresses */
    OPENING = 64,           /* connections that idle mode opens side by side */
    MAX_CONNECTIONS = 65536,
    MAX_SIZE = 1 << 20,
    PATTERN = 251,          /* prime, so that no message size is a multiple of it */
    RECEIVE = 1 << 16
};

struct connection {
    int fd;
    int waits_for_write;
    size_t sent;            /* bytes of the present message that are on their way */
    size_t received;        /* bytes of its echo that came back */
    const char *message;    /* NULL: no message in flight */
    int ending;             /* closed on this side, the server's answer is awaited */
#ifdef TLS
    struct ssl_st *ssl;
    size_t flushed;         /* bytes of what waits to be sent that are on their way */
    int tickets;            /* session tickets received */
#endif
};

static struct connection *connections;
static size_t connection_count;
static size_t message_size;
static char pattern[MAX_SIZE + PATTERN];
static char received_bytes[RECEIVE];
static int epoll_fd;
static struct sockaddr_in server;
static uint32_t next_source;

/* The present span. */
static uint64_t started, finished, operation_limit;
static double time_limit;
static struct timespec span_start;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("loader: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void took_too_long(int number)
{
    static const char text[] = "loader: took too long, giving up\n";
    ssize_t ignored = write(2, text, sizeof text - 1);
    (void)ignored;
    (void)number;
    _exit(3);
}

#ifdef TLS
#include "loader_tls.h"
#else
#include "loader_tcp.h"
#endif

static double elapsed(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - span_start.tv_sec) +
           (double)(now.tv_nsec - span_start.tv_nsec) / 1e9;
}

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int may_start_another(void)
{
    return started < operation_limit;
}

/* Connects from the next source address and leaves the socket non-blocking. */
static int open_socket(int type)
{
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | type, 0);
    if (fd < 0)
        fail("socket: %s (ulimit -n?)", strerror(errno));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(0x7f000101u + next_source++ % SOURCES);
    if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0)
        fail("bind: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    return fd;
}

static void watch(struct connection *connection, int operation, uint32_t interest)
{
    struct epoll_event event = {.events = interest, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, operation, connection->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
    connection->waits_for_write = (interest & EPOLLOUT) != 0;
}

/* Sends what is left of the present message; what the kernel does not take now waits. */
static void send_rest(struct connection *connection)
{
    int unsent = transport_send(connection);
    if (unsent != connection->waits_for_write)
        watch(connection, EPOLL_CTL_MOD, unsent ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void start_message(struct connection *connection)
{
    uint64_t offset = started + (uint64_t)(connection - connections);
    connection->message = pattern + offset % PATTERN;
    connection->sent = 0;
    connection->received = 0;
    started++;
    send_rest(connection);
}

static void close_connection(struct connection *connection)
{
    transport_close(connection);
    close(connection->fd);
    connection->fd = -1;
    connection->waits_for_write = 0;
    connection->ending = 0;
}

/* Opens a connection for churn and sends its byte. On loopback the handshake is over here. */
static void start_connection(struct connection *connection)
{
    connection->fd = open_socket(SOCK_NONBLOCK);
    transport_open(connection);
    watch(connection, EPOLL_CTL_ADD, EPOLLIN);
    start_message(connection);
}

/* Takes what came back; returns 1 when the echo is whole, and when an end was answered. */
static int receive(struct connection *connection)
{
    int whole = 0;
    do {
        ssize_t count = transport_receive(connection, received_bytes, sizeof received_bytes);
        if (count < 0)
            break;
        if (count == 0) {
            if (!connection->ending)
                fail("the server closed a connection");
            return 1;
        }
        if (connection->message == NULL || connection->received + (size_t)count > message_size)
            fail("the server sent more bytes than it was sent");
        if (memcmp(received_bytes, connection->message + connection->received, (size_t)count) != 0)
            fail("the echo differs from what was sent");
        connection->received += (size_t)count;
        if (connection->received == message_size) {
            connection->message = NULL;
            whole = 1;
        }
    } while (transport_has_more(connection));
    return whole;
}

/* One turn: waits for events and hands each to `on_echo` when its echo is whole. */
static void turn(void (*on_echo)(struct connection *))
{
    static struct epoll_event events[BATCH];
    int count = epoll_wait(epoll_fd, events, BATCH, STALL);
    if (count < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    if (count == 0)
        fail("no answer for %d ms, %llu operations under way", STALL,
             (unsigned long long)(started - finished));
    for (int index = 0; index < count; index++) {
        struct connection *connection = events[index].data.ptr;
        if (transport_opening(connection)) {
            send_rest(connection);
            continue;
        }
        if (events[index].events & EPOLLOUT)
            send_rest(connection);
        if (events[index].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && receive(connection))
            on_echo(connection);
    }
    if (elapsed() > time_limit)
        operation_limit = started;
}

static void echo_again(struct connection *connection)
{
    finished++;
    if (may_start_another())
        start_message(connection);
}

static void connect_again(struct connection *connection)
{
    if (!connection->ending && transport_end(connection)) {
        connection->ending = 1;
        return;
    }
    close_connection(connection);
    finished++;
    if (may_start_another())
        start_connection(connection);
}

static void hold(struct connection *connection)
{
    (void)connection;
    finished++;
}

/* Runs one span: up to `limit` operations, for at most `seconds`; what was started is ended. */
static void run_span(void (*start)(struct connection *), void (*on_echo)(struct connection *),
                     uint64_t limit, double seconds)
{
    started = finished = 0;
    operation_limit = limit;
    time_limit = seconds;
    clock_gettime(CLOCK_MONOTONIC, &span_start);
    for (size_t index = 0; index < connection_count && may_start_another(); index++)
        start(&connections[index]);
    while (finished < started)
        turn(on_echo);
}

/* Runs the spans that the harness asks for, until the end of file. */
static void obey(void (*start)(struct connection *), void (*on_echo)(struct connection *))
{
    char line[64];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        unsigned long long limit;
        unsigned milliseconds;
        if (sscanf(line, "%llu %u", &limit, &milliseconds) != 2 || milliseconds > MAX_SPAN)
            fail("not a span: %s", line);
        double cpu = cpu_seconds();
        run_span(start, on_echo, limit, milliseconds / 1e3);
        double wall = elapsed();
        cpu = cpu_seconds() - cpu;
        printf("done operations=%llu seconds=%.6f loader_cpu=%.6f\n",
               (unsigned long long)finished, wall, cpu);
        fflush(stdout);
    }
}

static void open_all(void)
{
    for (size_t index = 0; index < connection_count; index++) {
        connections[index].fd = open_socket(0);
        transport_open(&connections[index]);
        watch(&connections[index], EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void run_echo(void)
{
    open_all();
    /* A message on each, so that no handshake is left for a span. */
    run_span(start_message, hold, connection_count, MAX_SPAN / 1e3);
    obey(start_message, echo_again);
}

static void run_idle(void)
{
    size_t opened = 0, total = connection_count;
    struct connection *all = connections;
    while (opened < total) {
        size_t step = total - opened < OPENING ? total - opened : OPENING;
        connections = all + opened;
        connection_count = step;
        open_all();
        run_span(start_message, hold, step, MAX_SPAN / 1e3);
        opened += step;
    }
    connections = all;
    connection_count = total;
    obey(start_message, hold);
}

static uint64_t number(const char *text, uint64_t low, uint64_t high)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text == '-' || *end != '\0' || value < low || value > high) {
        fprintf(stderr, "loader: %s is not a number from %llu to %llu\n", text,
                (unsigned long long)low, (unsigned long long)high);
        exit(2);
    }
    return value;
}

static void usage(void)
{
    fputs("usage: loader echo PORT CONNECTIONS SIZE" TRANSPORT_USAGE "\n"
          "       loader churn PORT PARALLEL" TRANSPORT_USAGE "\n"
          "       loader idle PORT CONNECTIONS" TRANSPORT_USAGE "\n", stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    int is_echo = strcmp(mode, "echo") == 0, is_churn = strcmp(mode, "churn") == 0;
    int is_idle = strcmp(mode, "idle") == 0;
    int own = is_echo ? 5 : is_churn || is_idle ? 4 : argc + 1;
    if (argc != own + TRANSPORT_ARGUMENTS)
        usage();

    server.sin_family = AF_INET;
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons((uint16_t)number(argv[2], 1, 65535));
    connection_count = number(argv[3], 1, MAX_CONNECTIONS);
    message_size = is_echo ? number(argv[4], 1, MAX_SIZE) : 1;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, took_too_long);
    alarm(LIFE);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    for (size_t index = 0; index < sizeof pattern; index++)
        pattern[index] = (char)(index % PATTERN);
    connections = calloc(connection_count, sizeof *connections);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || epoll_fd < 0)
        fail("no memory or no epoll");
    transport_prepare(argv + own);

    if (is_idle) {
        run_idle();
    } else if (is_churn) {
        obey(start_connection, connect_again);
    } else {
        run_echo();
    }
    return 0;
}
