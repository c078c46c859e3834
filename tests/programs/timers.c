// Timers across the restore: `interval` (setitimer), `posix` (ids and remaining time), `cpu` (those that
// run on processor time), `thread` (delivered to one thread), `targets` (to all kinds of them), `clocks` (monotonic goes on, real time jumps).
#include <sys/time.h>
#include "check.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { ASKED = 1500, LATE = 4000 };
static volatile int fired[65];
static volatile int64_t fired_at[65];
static volatile int fired_in;

static void on_signal(int s) {
    if (!fired[s]++) fired_at[s] = now_ms(CLOCK_MONOTONIC);
    fired_in = gettid();
}

static void wait_fired(int s) {
    int64_t since = now_ms(CLOCK_MONOTONIC);
    while (!fired[s] && now_ms(CLOCK_MONOTONIC) - since < ASKED + LATE) {
        struct timespec t = {0, 1000000};
        nanosleep(&t, NULL);
    }
    check(fired[s], "signal %d never came", s);
}

static void check_time(int s, int64_t since, int asked) {
    int64_t took = fired_at[s] - since;
    check(took >= asked && took < asked + LATE, "signal %d came after %ld ms", s, (long)took);
}

static void interval(void) {
    struct itimerval at = {{0, 50000}, {ASKED / 1000, ASKED % 1000 * 1000}}, now, other = {{7, 0}, {3000, 0}};
    int64_t since = now_ms(CLOCK_MONOTONIC);
    setitimer(ITIMER_REAL, &at, NULL);
    setitimer(ITIMER_VIRTUAL, &other, NULL);
    setitimer(ITIMER_PROF, &other, NULL);
    ready();
    wait_go();
    wait_fired(SIGALRM);
    check_time(SIGALRM, since, ASKED);
    fired[SIGALRM] = 0;
    wait_fired(SIGALRM);
    getitimer(ITIMER_REAL, &now);
    check(now.it_interval.tv_usec == 50000, "interval %ld", now.it_interval.tv_usec);
    for (int which = ITIMER_VIRTUAL; which <= ITIMER_PROF; which++) {
        getitimer(which, &now);
        check(now.it_interval.tv_sec == 7, "interval %d", which);
        // At most as much has gone as the program may have used of the processor.
        check(now.it_value.tv_sec <= 3000 && now.it_value.tv_sec >= 2990, "%d: %ld s remain", which,
              now.it_value.tv_sec);
    }
}

static void posix(void) {
    timer_t id[5];
    struct itimerspec now, at = {{0, 0}, {ASKED / 1000, ASKED % 1000 * 1000000}};
    for (int i = 0; i < 5; i++) {
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + i};
        event.sigev_value.sival_int = 100 + i;
        if (i == 3) event.sigev_notify = SIGEV_NONE;
        need(timer_create(i == 2 ? CLOCK_REALTIME : CLOCK_MONOTONIC, &event, &id[i]) == 0);
    }
    timer_delete(id[1]);
    int64_t since = now_ms(CLOCK_MONOTONIC);
    timer_settime(id[0], 0, &at, NULL);
    timer_settime(id[2], 0, &at, NULL);
    at.it_value.tv_sec = 1000;
    at.it_interval.tv_sec = 5;
    timer_settime(id[3], 0, &at, NULL);
    // One that has an absolute time; and id[4] is not armed.
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 7};
    timer_t absolute;
    need(timer_create(CLOCK_MONOTONIC, &event, &absolute) == 0);
    struct itimerspec when = {.it_value = {(since + ASKED) / 1000, (since + ASKED) % 1000 * 1000000}};
    timer_settime(absolute, TIMER_ABSTIME, &when, NULL);
    ready();
    wait_go();
    wait_fired(SIGRTMIN);
    wait_fired(SIGRTMIN + 2);
    wait_fired(SIGRTMIN + 7);
    check_time(SIGRTMIN, since, ASKED);
    check_time(SIGRTMIN + 2, since, ASKED);
    check_time(SIGRTMIN + 7, since, ASKED);
    check(timer_gettime(id[1], &now) == -1 && errno == EINVAL, "a deleted timer is back");
    // What is gone of it is the time that has passed, however slow the machine is.
    long passed = (now_ms(CLOCK_MONOTONIC) - since) / 1000;
    check(timer_gettime(id[3], &now) == 0 && now.it_interval.tv_sec == 5 && now.it_value.tv_sec + passed > 980 &&
          now.it_value.tv_sec <= 1000, "%ld s remain after %ld", now.it_value.tv_sec, passed);
    check(timer_gettime(id[4], &now) == 0 && now.it_value.tv_sec == 0, "an idle timer runs");
    at.it_interval.tv_sec = 0;
    at.it_value = (struct timespec){0, 1000000};
    check(timer_settime(id[4], 0, &at, NULL) == 0, "%s", strerror(errno));
    wait_fired(SIGRTMIN + 4);
    for (int i = 0; i < 5; i++) check(i == 1 || timer_delete(id[i]) == 0, "timer %d", i);
    timer_t fresh;
    check(timer_create(CLOCK_MONOTONIC, &event, &fresh) == 0, "%s", strerror(errno));
}

static void cpu(void) {
    timer_t id;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1};
    struct itimerspec at = {.it_value = {0, 300000000}}, now;
    need(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &id) == 0);
    need(timer_settime(id, 0, &at, NULL) == 0);
    // A clock that names the thread by its id.
    timer_t own;
    clockid_t clock;
    need(pthread_getcpuclockid(pthread_self(), &clock) == 0);
    event.sigev_signo = SIGRTMIN + 2;
    need(timer_create(clock, &event, &own) == 0);
    need(timer_settime(own, 0, &at, NULL) == 0);
    ready();
    wait_go();
    check(timer_gettime(id, &now) == 0, "%s", strerror(errno));
    check(fired[SIGRTMIN + 1] || now.it_value.tv_nsec > 0, "it neither fired nor runs");
    check(timer_gettime(own, &now) == 0, "%s", strerror(errno));
    check(fired[SIGRTMIN + 2] || now.it_value.tv_nsec > 0, "that of the thread neither fired nor runs");
    for (int64_t since = now_ms(CLOCK_MONOTONIC); !fired[SIGRTMIN + 1] || !fired[SIGRTMIN + 2];)
        if (now_ms(CLOCK_MONOTONIC) - since > 10000) break;
    check(fired[SIGRTMIN + 1] == 1, "fired %d times", fired[SIGRTMIN + 1]);
    check(fired[SIGRTMIN + 2] == 1, "that of the thread fired %d times", fired[SIGRTMIN + 2]);
}

static volatile int leave, worker;
static void *spin(void *unused) {
    worker = gettid();
    while (!leave) usleep(1000);
    return unused;
}

static void thread(void) {
    pthread_t thread;
    timer_t id;
    pthread_create(&thread, NULL, spin, NULL);
    while (!worker) usleep(1000);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 5};
    event.sigev_notify_thread_id = worker;
    struct itimerspec at = {.it_value = {ASKED / 1000, ASKED % 1000 * 1000000}};
    need(timer_create(CLOCK_MONOTONIC, &event, &id) == 0);
    int64_t since = now_ms(CLOCK_MONOTONIC);
    timer_settime(id, 0, &at, NULL);
    ready();
    wait_go();
    wait_fired(SIGRTMIN + 5);
    check_time(SIGRTMIN + 5, since, ASKED);
    check(fired_in == worker, "it fired in thread %d instead of %d", fired_in, worker);
    leave = 1;
    pthread_join(thread, NULL);
}

static volatile int notified[3], noticed[65];
static void on_notify(union sigval value) { notified[value.sival_int]++; }
static void on_target(int s) {
    check(!noticed[s] || noticed[s] == gettid(), "signal %d came in thread %d, then in %d", s, noticed[s], gettid());
    noticed[s] = gettid();
    fired[s]++;
}

// Timers that repeat, one for each kind of target.
static void targets(void) {
    enum { PROCESS, MAIN, OTHER, DELETED };
    pthread_t thread;
    timer_t id[DELETED + 1];
    struct itimerspec at = {{0, 20000000}, {0, 20000000}}, now;
    struct sigaction action = {.sa_handler = on_target, .sa_flags = SA_RESTART};
    for (int i = MAIN; i <= OTHER; i++) sigaction(SIGRTMIN + i, &action, NULL);
    pthread_create(&thread, NULL, spin, NULL);
    while (!worker) usleep(1000);
    for (int i = PROCESS; i <= DELETED; i++) {
        struct sigevent event = {.sigev_notify = i == PROCESS ? SIGEV_SIGNAL : SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + i};
        if (i != PROCESS) event.sigev_notify_thread_id = i == OTHER ? worker : gettid();
        need(timer_create(CLOCK_MONOTONIC, &event, &id[i]) == 0);
        need(timer_settime(id[i], 0, &at, NULL) == 0);
    }
    timer_delete(id[DELETED]);
    // The C library makes a thread that it tells by SIGEV_THREAD_ID.
    timer_t made[2];
    for (int i = 0; i < 2; i++) {
        struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_notify};
        event.sigev_value.sival_int = i + 1;
        need(timer_create(i ? CLOCK_REALTIME : CLOCK_MONOTONIC, &event, &made[i]) == 0);
        need(timer_settime(made[i], 0, &at, NULL) == 0);
    }
    ready();
    wait_go();
    int before[3], seen[3] = {notified[0], notified[1], notified[2]};
    for (int i = PROCESS; i <= OTHER; i++) before[i] = fired[SIGRTMIN + i];
    int64_t since = now_ms(CLOCK_MONOTONIC);
    for (int left = 1; left && now_ms(CLOCK_MONOTONIC) - since < LATE;) {
        usleep(10000);
        left = 0;
        for (int i = PROCESS; i <= OTHER; i++) left |= fired[SIGRTMIN + i] < before[i] + 3;
        for (int i = 1; i <= 2; i++) left |= notified[i] < seen[i] + 3;
    }
    for (int i = PROCESS; i <= OTHER; i++)
        check(fired[SIGRTMIN + i] >= before[i] + 3, "timer %d went off %d times", i, fired[SIGRTMIN + i] - before[i]);
    for (int i = 1; i <= 2; i++) check(notified[i] >= seen[i] + 3, "thread %d was made %d times", i, notified[i] - seen[i]);
    check(noticed[SIGRTMIN + MAIN] == gettid(), "in thread %d", noticed[SIGRTMIN + MAIN]);
    check(noticed[SIGRTMIN + OTHER] == worker, "in thread %d", noticed[SIGRTMIN + OTHER]);
    for (int i = PROCESS; i <= OTHER; i++) {
        check(timer_gettime(id[i], &now) == 0 && now.it_interval.tv_nsec == 20000000, "timer %d", i);
        check(timer_delete(id[i]) == 0, "timer %d", i);
    }
    for (int i = 0; i < 2; i++) check(timer_delete(made[i]) == 0, "timer of a thread %d", i);
    leave = 1;
    pthread_join(thread, NULL);
}

// A timer whose thread has ended: refused.
static void orphan(void) {
    pthread_t thread;
    timer_t id;
    pthread_create(&thread, NULL, spin, NULL);
    while (!worker) usleep(1000);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event.sigev_notify_thread_id = worker;
    need(timer_create(CLOCK_MONOTONIC, &event, &id) == 0);
    leave = 1;
    pthread_join(thread, NULL);
    while (syscall(SYS_tgkill, getpid(), worker, 0) == 0) usleep(1000);
    ready();
    wait_go();
}

// The harness keeps it on disk for 3 s: the monotonic clocks must not have gone on for so long, real time must.
static void clocks(int disturbed) {
    clockid_t steady[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW};
    int64_t before[4], real = now_ms(CLOCK_REALTIME), processor = now_ms(CLOCK_PROCESS_CPUTIME_ID);
    ready();
    for (int i = 0; i < 4; i++) before[i] = now_ms(steady[i]);
    wait_go();
    for (int i = 0; i < 4; i++) {
        int64_t went = now_ms(steady[i]) - before[i];
        check(went >= 0 && went < 2500, "clock %d went on by %ld ms", steady[i], (long)went);
    }
    struct timespec direct;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &direct);
    int64_t differ = now_ms(CLOCK_MONOTONIC) - (direct.tv_sec * 1000 + direct.tv_nsec / 1000000);
    check(differ >= -1 && differ < 500, "the vDSO and the kernel differ by %ld ms", (long)differ);
    int64_t went = now_ms(CLOCK_REALTIME) - real;
    check(went >= (disturbed ? 3000 : 0), "real time went on by %ld ms", (long)went);
    check(now_ms(CLOCK_PROCESS_CPUTIME_ID) >= 0 && processor >= 0, "processor time");
}

int main(int argc, char **argv) {
    need(argc >= 2);
    may_interrupt = 1;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    for (int s = SIGRTMIN; s <= SIGRTMAX; s++) sigaction(s, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    if (is(argv[1], "interval")) interval();
    if (is(argv[1], "posix")) posix();
    if (is(argv[1], "cpu")) cpu();
    if (is(argv[1], "thread")) thread();
    if (is(argv[1], "targets")) targets();
    if (is(argv[1], "orphan")) orphan();
    if (is(argv[1], "clocks")) clocks(argc > 2);
    return done();
}
