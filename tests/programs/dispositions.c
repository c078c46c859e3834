// The disposition of all 64 signals, with flags and masks, as the kernel has it.
#include "check.h"

enum { RESTORER = 0x04000000 };

static volatile int seen[65];
static void first(int s) { seen[s] += 1; }
static void second(int s, siginfo_t *info, void *context) {
    (void)context;
    seen[s] += info->si_signo == s ? 10 : 1000;
}

static int set(int s, const kernel_action *new, kernel_action *old) {
    return (int)syscall(SYS_rt_sigaction, s, new, old, 8);
}

int main(void) {
    static kernel_action before[65], after[65];
    kernel_action base;
    // A restorer that works, from the C library.
    signal(SIGUSR1, first);
    set(SIGUSR1, NULL, &base);
    for (int s = 1; s <= 64; s++) {
        if (s == SIGKILL || s == SIGSTOP) continue;
        kernel_action a = base;
        a.flags = RESTORER;
        a.mask = pattern((uint64_t)s) & ~(1UL << (SIGKILL - 1) | 1UL << (SIGSTOP - 1));
        switch (s % 4) {
        case 0: a.handler = SIG_DFL; a.flags |= SA_NOCLDWAIT & -(s == SIGCHLD); break;
        case 1: a.handler = SIG_IGN; break;
        case 2: a.flags |= SA_RESTART | SA_NODEFER; break;
        default: a.handler = (void (*)(int))(void *)second; a.flags |= SA_SIGINFO | SA_ONSTACK; break;
        }
        if (s == SIGUSR2) a.flags |= SA_RESETHAND;
        need(set(s, &a, NULL) == 0);
    }
    for (int s = 1; s <= 64; s++) set(s, NULL, &before[s]);
    ready();
    wait_go();
    for (int s = 1; s <= 64; s++) {
        set(s, NULL, &after[s]);
        check(memcmp(&before[s], &after[s], sizeof(kernel_action)) == 0,
              "signal %d: %p %lx %lx, was %p %lx %lx", s, (void *)after[s].handler, after[s].flags,
              after[s].mask, (void *)before[s].handler, before[s].flags, before[s].mask);
    }
    for (int s = 1; s <= 64; s++)
        if (before[s].handler != SIG_DFL && s != SIGKILL && s != SIGSTOP) syscall(SYS_kill, getpid(), s);
    for (int s = 1; s <= 64; s++) printf("%d ", seen[s]);
    printf("\n");
    return done();
}
