// Connections over the loopback to a port that is its argument, and what becomes of them when they are given up: plain
// reading, writing, and waiting by poll and epoll.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include "check.h"

static struct sockaddr_in address = {.sin_family = AF_INET};

static int connected(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static short state(int fd) {
    struct pollfd p = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    need(poll(&p, 1, 0) >= 0);
    return p.revents;
}

int main(int argc, char **argv) {
    need(argc == 2);
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char byte;
    signal(SIGPIPE, SIG_IGN);
    int reader = connected(), writer = connected(), watched = connected(), twin = dup(reader);
    need(fcntl(writer, F_SETFL, O_NONBLOCK) == 0);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 42};
    need(epoll_ctl(epoll, EPOLL_CTL_ADD, watched, &event) == 0);
    need(state(reader) == POLLOUT);
    ready();
    wait_go();
    const short over = POLLIN | POLLOUT | POLLRDHUP | POLLHUP;
    check(state(reader) == (over | POLLERR), "%#x", state(reader));
    check(read(twin, &byte, 1) == -1 && errno == ECONNRESET, "%s", strerror(errno));
    check(state(reader) == over, "%#x", state(reader));
    check(read(reader, &byte, 1) == 0, "%s", strerror(errno));
    check(write(reader, "x", 1) == -1 && errno == EPIPE, "%s", strerror(errno));
    check((fcntl(writer, F_GETFL) & O_NONBLOCK) && !(fcntl(reader, F_GETFL) & O_NONBLOCK), "flags");
    check((fcntl(writer, F_GETFD) & FD_CLOEXEC) && !(fcntl(twin, F_GETFD) & FD_CLOEXEC), "flags of descriptors");
    check(write(writer, "x", 1) == -1 && errno == ECONNRESET, "%s", strerror(errno));
    check(write(writer, "x", 1) == -1 && errno == EPIPE, "%s", strerror(errno));
    memset(&event, 0, sizeof event);
    check(epoll_wait(epoll, &event, 1, 5000) == 1 && event.data.u64 == 42, "epoll");
    check((event.events & (EPOLLHUP | EPOLLERR)) == (EPOLLHUP | EPOLLERR), "%#x", event.events);
    return done();
}
