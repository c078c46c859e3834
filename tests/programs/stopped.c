// Counts; somebody stops it with SIGSTOP, and it does not go on before SIGCONT.
#include "check.h"

static volatile int continued;
static void on_continue(int s) {
    (void)s;
    continued++;
}

int main(void) {
    may_interrupt = 1;
    signal(SIGCONT, on_continue);
    ready();
    wait_go();
    // The harness says go long before it says continue, but only if this really was stopped is
    // the signal seen at the first look.
    check(continued == 1, "continued %d times", continued);
    return done();
}
