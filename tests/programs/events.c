// eventfd and epoll: counts, what is watched and how, threads that wait.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include "check.h"

static void counters(void) {
    uint64_t value = 0;
    int plain = eventfd(0, EFD_CLOEXEC), semaphore = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK), copy;
    int empty = eventfd(0, EFD_NONBLOCK), highest = eventfd(0, EFD_NONBLOCK);
    need(plain >= 0 && semaphore >= 0 && empty >= 0 && (copy = fcntl(plain, F_DUPFD, 99)) == 99);
    need(eventfd_write(plain, 0x123456789abULL) == 0 && eventfd_write(semaphore, 3) == 0);
    need(eventfd_write(highest, UINT64_MAX - 1) == 0);
    ready();
    wait_go();
    check(fcntl(plain, F_GETFD) == FD_CLOEXEC && fcntl(copy, F_GETFD) == 0, "close-on-exec");
    check((fcntl(semaphore, F_GETFL) & O_NONBLOCK) && !(fcntl(plain, F_GETFL) & O_NONBLOCK), "flags");
    check(eventfd_write(copy, 1) == 0 && eventfd_read(plain, &value) == 0 && value == 0x123456789acULL, "%lx", value);
    for (int i = 0; i < 3; i++) check(eventfd_read(semaphore, &value) == 0 && value == 1, "not a semaphore: %lu", value);
    check(eventfd_read(semaphore, &value) == -1 && errno == EAGAIN, "one too many");
    check(eventfd_read(empty, &value) == -1 && errno == EAGAIN, "not empty: %lu", value);
    check(eventfd_write(highest, 1) == -1 && errno == EAGAIN, "not full");
    check(eventfd_read(highest, &value) == 0 && value == UINT64_MAX - 1, "%lx", value);
}

// Lets `fd` be watched.
static void watch(int epoll, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data.u64 = data};
    need(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

// The events of the one watched by `data`; 0 when there are none.
static uint32_t events_of(int epoll, uint64_t data) {
    struct epoll_event found[16];
    uint32_t events = 0;
    int n = epoll_wait(epoll, found, 16, 0);
    check(n >= 0, "%s", strerror(errno));
    for (int i = 0; i < n; i++)
        if (found[i].data.u64 == data) events |= found[i].events;
    return events;
}

static void watched(void) {
    enum { LEVEL = 0xfedcba9876543210ULL, EDGE = 2, FIRED = 3, ARMED = 4, COUNTER = 5 };
    uint64_t value;
    int epoll = epoll_create1(EPOLL_CLOEXEC), copy = fcntl(epoll, F_DUPFD, 70), ends[4][2], counter = eventfd(0, 0);
    need(copy == 70 && counter >= 0);
    for (int i = 0; i < 4; i++) need(pipe(ends[i]) == 0 && write(ends[i][1], "x", 1) == 1);
    watch(epoll, ends[1][0], EPOLLIN | EPOLLET, EDGE);
    watch(epoll, ends[2][0], EPOLLIN | EPOLLONESHOT, FIRED);
    need(events_of(epoll, FIRED) == EPOLLIN);
    watch(epoll, ends[0][0], EPOLLIN | EPOLLPRI, LEVEL);
    watch(epoll, ends[3][0], EPOLLIN | EPOLLONESHOT, ARMED);
    watch(epoll, counter, EPOLLIN, COUNTER);
    ready();
    wait_go();
    check(fcntl(epoll, F_GETFD) == FD_CLOEXEC && fcntl(copy, F_GETFD) == 0, "close-on-exec");
    struct epoll_event found[16];
    int seen[6] = {0}, n = epoll_wait(copy, found, 16, 0);
    for (int i = 0; i < n; i++) {
        check(found[i].events == EPOLLIN, "events %x", found[i].events);
        seen[found[i].data.u64 == LEVEL ? 1 : found[i].data.u64 < 6 ? found[i].data.u64 : 0]++;
    }
    // A new edge may be told for one that was seen before; an armed one and a level must be there.
    check(seen[1] == 1 && seen[ARMED] == 1 && seen[FIRED] == 0 && seen[COUNTER] == 0 && seen[0] == 0,
          "level %d, armed %d, fired %d, counter %d, unknown %d", seen[1], seen[ARMED], seen[FIRED], seen[COUNTER], seen[0]);
    check(events_of(epoll, LEVEL) == EPOLLIN, "the level is told once only");
    check(events_of(epoll, EDGE) == 0, "the edge is told again and again");
    check(events_of(epoll, ARMED) == 0, "the one shot is told twice");
    need(write(ends[1][1], "y", 1) == 1 && eventfd_write(counter, 9) == 0);
    check(events_of(epoll, EDGE) == EPOLLIN, "no new edge");
    check(events_of(epoll, COUNTER) == EPOLLIN, "the counter is not watched");
    check(eventfd_read(counter, &value) == 0 && value == 9 && events_of(epoll, COUNTER) == 0, "the counter is level");
    struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 77};
    check(epoll_ctl(epoll, EPOLL_CTL_MOD, ends[2][0], &again) == 0, "%s", strerror(errno));
    check(events_of(epoll, 77) == EPOLLIN, "not armed again");
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[2][0], &again) == -1 && errno == EEXIST, "it was not watched");
    check(epoll_ctl(epoll, EPOLL_CTL_DEL, ends[0][0], NULL) == 0, "%s", strerror(errno));
    check(events_of(copy, LEVEL) == 0, "still watched");
}

static int sleeping_epoll;

static void *waits(void *unused) {
    struct epoll_event found;
    errno = 0;
    int n = epoll_wait(sleeping_epoll, &found, 1, -1);
    check(n == 1 && found.data.u64 == 0x77, "epoll_wait gave %d: %s", n, strerror(errno));
    uint64_t value = 0;
    check(eventfd_read((int)(intptr_t)unused, &value) == 0 && value == 4, "%lu", value);
    return NULL;
}

// A thread that waits in epoll_wait for another one's wake-up, as every event loop does.
static void blocked(void) {
    pthread_t id;
    int counter = eventfd(0, 0);
    sleeping_epoll = epoll_create1(0);
    watch(sleeping_epoll, counter, EPOLLIN | EPOLLET, 0x77);
    need(pthread_create(&id, NULL, waits, (void *)(intptr_t)counter) == 0);
    ready();
    wait_go();
    check(eventfd_write(counter, 4) == 0, "%s", strerror(errno));
    pthread_join(id, NULL);
}

int main(int argc, char **argv) {
    need(argc == 2);
    if (is(argv[1], "counters")) counters();
    if (is(argv[1], "watched")) watched();
    if (is(argv[1], "blocked")) blocked();
    return done();
}
