// What the program never touched stays at its default: no signal action is that of the program which restored it,
// and its process group is a real one.
#include "check.h"

int main(void) {
    static kernel_action before[65];
    stack_t stack;
    for (int s = 1; s <= 64; s++) syscall(SYS_rt_sigaction, s, NULL, &before[s], 8);
    ready();
    wait_go();
    for (int s = 1; s <= 64; s++) {
        kernel_action now;
        if (syscall(SYS_rt_sigaction, s, NULL, &now, 8) != 0) continue;
        check(now.handler == before[s].handler, "signal %d is handled by %p", s, (void *)now.handler);
    }
    sigaltstack(NULL, &stack);
    check(stack.ss_flags & SS_DISABLE, "there is an alternate stack at %p", stack.ss_sp);
    check(getpgrp() > 0, "process group %d", getpgrp());
    return done();
}
