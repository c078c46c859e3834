// Has a child that has ended and that nobody has waited for; prints its id.
#include "check.h"

int main(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    siginfo_t info;
    waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT);
    printf("zombie %d\n", child);
    ready();
    wait_go();
    return done();
}
