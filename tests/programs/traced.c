// Traces the given process, as a debugger would, and lets it run.
#include <sys/ptrace.h>
#include "check.h"

int main(int argc, char **argv) {
    need(argc == 2);
    pid_t target = atoi(argv[1]);
    need(ptrace(PTRACE_SEIZE, target, 0, 0) == 0);
    ready();
    wait_go();
    ptrace(PTRACE_DETACH, target, 0, 0);
    return done();
}
