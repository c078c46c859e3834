// A checkpoint in the middle of a signal handler, on an alternate stack, inside another handler; and what comes
// after: sigreturn to where it was, with the mask of before.
#include "check.h"

static volatile int depth, order;

static void on_signal(int s) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    check(sigismember(&mask, s), "signal %d is not blocked in its handler", s);
    depth++;
    if (depth == 1) raise(SIGUSR2);
    if (depth == 2) {
        ready();
        wait_go();
    }
    order = order * 10 + (s == SIGUSR1 ? 1 : 2);
}

int main(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    stack_t stack = {.ss_size = 131072, .ss_sp = anon(131072)};
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    double before = 1.5;
    raise(SIGUSR1);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    check(!sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2), "mask afterwards");
    check(order == 21 && before == 1.5, "order %d", order);
    return done();
}
