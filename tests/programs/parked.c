// Signals that a park and its undoing would sweep away, pending in the process and in a thread: they stay, and no other
// one comes.
#include "check.h"

static volatile int continued;
static void on_continue(int s) {
    (void)s;
    continued++;
}

static void *idle(void *argument) {
    (void)argument;
    for (;;) pause();
    return NULL;
}

// Takes the next pending one of a set; says which, and how it was sent.
static int next(const sigset_t *set, int *code) {
    siginfo_t info;
    struct timespec none = {0, 0};
    // The C library's own hides SI_TKILL.
    int signal = (int)syscall(SYS_rt_sigtimedwait, set, &info, &none, 8);
    *code = signal > 0 ? info.si_code : 0;
    check(signal <= 0 || info.si_pid == getpid(), "from %d", info.si_pid);
    return signal;
}

int main(int argc, char **argv) {
    need(argc == 2);
    const char *mode = argv[1];
    sigset_t set;
    pthread_t other;
    int code;
    sigemptyset(&set);
    signal(SIGCONT, on_continue);
    if (is(mode, "stops")) {
        sigaddset(&set, SIGTSTP);
        sigaddset(&set, SIGTTIN);
        sigaddset(&set, SIGTTOU);
    } else {
        sigaddset(&set, SIGCONT);
    }
    need(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    need(pthread_create(&other, NULL, idle, NULL) == 0);
    if (is(mode, "stops")) {
        need(kill(getpid(), SIGTSTP) == 0 && kill(getpid(), SIGTTIN) == 0);
        need(pthread_kill(pthread_self(), SIGTTOU) == 0);
    }
    if (is(mode, "continues")) need(kill(getpid(), SIGCONT) == 0 && pthread_kill(pthread_self(), SIGCONT) == 0);
    ready();
    wait_go();
    if (is(mode, "stops")) {
        check(next(&set, &code) == SIGTTOU && code == SI_TKILL, "%d", code);
        check(next(&set, &code) == SIGTSTP && code == SI_USER, "%d", code);
        check(next(&set, &code) == SIGTTIN && code == SI_USER, "%d", code);
    }
    if (is(mode, "continues")) {
        check(next(&set, &code) == SIGCONT && code == SI_TKILL, "%d", code);
        check(next(&set, &code) == SIGCONT && code == SI_USER, "%d", code);
    }
    check(next(&set, &code) == -1 && errno == EAGAIN, "one more: %d", code);
    check(continued == 0, "continued %d times", continued);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    check(continued == 0, "continued %d times in the end", continued);
    return done();
}
