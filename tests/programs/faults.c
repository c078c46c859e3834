// Memory that must not be touched: PROT_NONE with contents (`none`), guard regions (`guard`).
// It still faults after the restore, and what is behind it is still there.
#include <setjmp.h>
#include "check.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

enum { PAGE = 4096 };
static sigjmp_buf back;
static void *volatile faulted_at;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    faulted_at = info->si_addr;
    siglongjmp(back, 1);
}

static int faults(volatile char *at) {
    faulted_at = NULL;
    if (sigsetjmp(back, 1) == 0) {
        (void)*at;
        return 0;
    }
    return faulted_at == (void *)at;
}

int main(int argc, char **argv) {
    need(argc == 2);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    char *area = anon(16 * PAGE);
    fill(area, 16 * PAGE, 9);
    int guard = is(argv[1], "guard");
    if (guard) {
        if (madvise(area + 4 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL) != 0)
            skip("this kernel has no guard regions: %s", strerror(errno));
    } else {
        need(mprotect(area + 4 * PAGE, 2 * PAGE, PROT_NONE) == 0);
    }
    ready();
    wait_go();
    check(faults(area + 4 * PAGE) && faults(area + 6 * PAGE - 1), "no fault");
    check(!faults(area + 4 * PAGE - 1) && !faults(area + 6 * PAGE), "a fault beside it");
    check(is_filled(area, 4 * PAGE, 9), "before it");
    check(is_filled(area + 6 * PAGE, 10 * PAGE, 9 + 6 * PAGE / 8), "behind it");
    if (guard) {
        check(madvise(area + 4 * PAGE, 2 * PAGE, MADV_GUARD_REMOVE) == 0, "%s", strerror(errno));
        check(is_zero(area + 4 * PAGE, 2 * PAGE), "a removed guard leaves zeros");
    } else {
        check(mprotect(area + 4 * PAGE, 2 * PAGE, PROT_READ) == 0, "%s", strerror(errno));
        check(is_filled(area, 16 * PAGE, 9), "what was protected");
    }
    return done();
}
