// A thread that waits in the kernel, in one way per argument. It must not notice anything: no EINTR, no
// wait cut short, none much longer. With several arguments each is a thread of its own. A number in front is the length
// of timed waits in milliseconds.
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include "check.h"

enum { SLACK_MS = 4000 };
static int wait_ms = 1500;
static struct timespec length;
static pthread_t sleeper;

static struct timespec later(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += length.tv_nsec;
    t.tv_sec += length.tv_sec + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static void on_signal(int signal) { (void)signal; }

// Waits for nothing until the time is over; gives the call's result, with errno.
static int timed(const char *how, int *expected) {
    struct timespec t = length, rem = {9, 9};
    struct timeval tv = {length.tv_sec, length.tv_nsec / 1000};
    sigset_t none;
    sigemptyset(&none);
    *expected = 0;
    if (is(how, "nanosleep")) return nanosleep(&t, NULL);
    if (is(how, "nanosleep-rem")) return nanosleep(&t, &rem);
    if (is(how, "nanosleep-same")) return nanosleep(&t, &t);
    if (is(how, "clock_nanosleep")) return clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
    if (is(how, "clock_nanosleep-boot")) return clock_nanosleep(CLOCK_BOOTTIME, 0, &t, &rem);
    if (is(how, "clock_nanosleep-abs")) {
        t = later(CLOCK_MONOTONIC);
        return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    }
    if (is(how, "poll")) return poll(NULL, 0, wait_ms);
    if (is(how, "ppoll")) return ppoll(NULL, 0, &t, &none);
    if (is(how, "select")) return select(0, NULL, NULL, NULL, &tv);
    if (is(how, "pselect")) return pselect(0, NULL, NULL, NULL, &t, &none);
    if (is(how, "epoll") || is(how, "epoll_pwait") || is(how, "epoll_pwait2")) {
        struct epoll_event found;
        int epoll = epoll_create1(0);
        if (is(how, "epoll")) return epoll_wait(epoll, &found, 1, wait_ms);
        if (is(how, "epoll_pwait")) return epoll_pwait(epoll, &found, 1, wait_ms, &none);
        int r = (int)syscall(SYS_epoll_pwait2, epoll, &found, 1, &t, NULL, 0);
        if (r == -1 && errno == ENOSYS) skip("this kernel has no epoll_pwait2");
        return r;
    }
    if (is(how, "futex-rel")) {
        int word = 0;
        *expected = ETIMEDOUT;
        return syscall(SYS_futex, &word, 0 /* FUTEX_WAIT */, 0, &t, NULL, 0) ? errno : 0;
    }
    if (is(how, "cond-real") || is(how, "cond-monotonic")) {
        clockid_t clock = is(how, "cond-real") ? CLOCK_REALTIME : CLOCK_MONOTONIC;
        pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        pthread_condattr_t attributes;
        pthread_cond_t condition;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, clock);
        pthread_cond_init(&condition, &attributes);
        pthread_mutex_lock(&mutex);
        t = later(clock);
        *expected = ETIMEDOUT;
        return pthread_cond_timedwait(&condition, &mutex, &t);
    }
    if (is(how, "sem")) {
        sem_t semaphore;
        sem_init(&semaphore, 0, 0);
        t = later(CLOCK_REALTIME);
        *expected = ETIMEDOUT;
        return sem_timedwait(&semaphore, &t) ? errno : 0;
    }
    if (is(how, "sigtimedwait")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN + 3);
        *expected = EAGAIN;
        return sigtimedwait(&set, NULL, &t) == -1 ? errno : 0;
    }
    *expected = -1;
    return -1;
}

static void *watch(void *unused) {
    wait_go();
    pthread_kill(sleeper, SIGUSR2);
    return unused;
}

// Waits for something that happens after the restore; gives what it got, or errno.
static int event(const char *how, int *expected) {
    char bytes[8] = "";
    struct pollfd poll_stdin = {.fd = 0, .events = POLLIN};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(0, &set);
    *expected = 3;
    if (is(how, "read")) return (int)read(0, bytes, sizeof bytes) == 3 && is(bytes, "abc") ? 3 : errno;
    *expected = 1;
    if (is(how, "poll-stdin")) return poll(&poll_stdin, 1, -1) == 1 ? 1 : errno;
    if (is(how, "select-stdin")) return select(1, &set, NULL, NULL, NULL) == 1 ? 1 : errno;
    sigset_t signals, others;
    pthread_t id;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR2);
    sigfillset(&others);
    sigdelset(&others, SIGUSR2);
    int waits = is(how, "sigwait"), suspends = is(how, "sigsuspend");
    if (waits || suspends) pthread_sigmask(SIG_BLOCK, &signals, NULL);
    sleeper = pthread_self();
    need(pthread_create(&id, NULL, watch, NULL) == 0);
    int got = 0, r;
    *expected = waits ? SIGUSR2 : EINTR;
    if (waits) r = sigwait(&signals, &got) ? -1 : got;
    else if (suspends) r = sigsuspend(&others) ? errno : 0;
    else if (is(how, "pause")) r = pause() ? errno : 0;
    else r = -2;
    pthread_join(id, NULL);
    return r;
}

static void *one(void *argument) {
    char **mode = argument;
    int expected, result;
    // In a nest only real time sees how long the program lay on disk, and these waits are for a real time.
    clockid_t clock = is(*mode, "cond-real") || is(*mode, "sem") ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    int64_t since = now_ms(clock);
    errno = 0;
    result = timed(*mode, &expected);
    int64_t took = now_ms(clock) - since;
    if (expected >= 0) {
        check(took >= wait_ms, "%s took only %ld ms", *mode, (long)took);
        check(took < wait_ms + SLACK_MS, "%s took %ld ms", *mode, (long)took);
    } else {
        result = event(*mode, &expected);
    }
    check(result == expected, "%s gave %d, errno %d", *mode, result, errno);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t id[32];
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR2, &action, NULL);
    if (argc > 1 && atoi(argv[1])) {
        wait_ms = atoi(argv[1]);
        argv++;
        argc--;
    }
    length = (struct timespec){wait_ms / 1000, wait_ms % 1000 * 1000000};
    need(argc > 1 && argc < 32);
    for (int i = 2; i < argc; i++) need(pthread_create(&id[i], NULL, one, &argv[i]) == 0);
    ready();
    one(&argv[1]);
    for (int i = 2; i < argc; i++) pthread_join(id[i], NULL);
    return done();
}
