// Signals that wait to be delivered: of the process and of two threads, with their data; real-time
// signals queue, and come in order.
#include "check.h"

enum { TIMER_SIGNAL = 37 };
static sigset_t all;
static pthread_barrier_t sent;

static void take(const char *whose) {
    siginfo_t info;
    struct timespec none = {0, 0};
    for (;;) {
        int s = sigtimedwait(&all, &info, &none);
        if (s < 0) break;
        printf("%s: %d code %d value %d%s\n", whose, s, info.si_code, info.si_value.sival_int,
               info.si_code == SI_TIMER || info.si_pid == getpid() ? "" : " from another pid");
    }
}

static void to_thread(pthread_t id, int signal, int value) {
    need(pthread_sigqueue(id, signal, (union sigval){.sival_int = value}) == 0);
}

static void *work(void *argument) {
    pthread_barrier_wait(&sent);
    wait_go();
    sigset_t pending;
    sigpending(&pending);
    check(sigismember(&pending, SIGUSR2), "not pending");
    static pthread_mutex_t in_turn = PTHREAD_MUTEX_INITIALIZER;
    // Signals of the process would go to whoever asks first.
    siginfo_t info;
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, SIGUSR2);
    sigaddset(&own, SIGRTMIN + 9);
    struct timespec none = {0, 0};
    long *got = argument;
    pthread_mutex_lock(&in_turn);
    for (int s; (s = sigtimedwait(&own, &info, &none)) > 0;)
        *got = *got * 100 + info.si_value.sival_int;
    pthread_mutex_unlock(&in_turn);
    return NULL;
}

int main(void) {
    pthread_t id[2];
    long got[2] = {0, 0};
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    pthread_barrier_init(&sent, NULL, 3);
    for (int i = 0; i < 2; i++) need(pthread_create(&id[i], NULL, work, &got[i]) == 0);
    for (int i = 1; i <= 5; i++) need(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = i}) == 0);
    for (int i = 1; i <= 3; i++) need(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = -i}) == 0);
    need(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 42}) == 0);
    kill(getpid(), SIGWINCH);
    to_thread(pthread_self(), SIGRTMIN + 4, 77);
    to_thread(id[0], SIGUSR2, 11);
    for (int i = 1; i <= 4; i++) to_thread(id[0], SIGRTMIN + 9, 20 + i);
    to_thread(id[1], SIGUSR2, 31);
    // A timer that has fired while its signal was blocked, and its overruns.
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = TIMER_SIGNAL};
    event.sigev_value.sival_int = 55;
    struct itimerspec at = {.it_value = {0, 1000}};
    need(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    need(timer_settime(timer, 0, &at, NULL) == 0);
    sigset_t pending;
    do sigpending(&pending);
    while (!sigismember(&pending, TIMER_SIGNAL));
    pthread_barrier_wait(&sent);
    ready();
    wait_go();
    for (int i = 0; i < 2; i++) {
        pthread_join(id[i], NULL);
        printf("thread %d: %ld\n", i, got[i]);
    }
    take("process");
    return done();
}
