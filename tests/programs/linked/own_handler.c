/* Has its own idea of Ctrl+C, set with signal() or, with an argument, blocked and waited for. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile sig_atomic_t caught;
static void on_interrupt(int s) {
    (void)s;
    caught = 1;
}

int main(int argc, char **argv) {
    sigset_t set;
    int got = 0;
    (void)argv;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    if (argc > 1) sigprocmask(SIG_BLOCK, &set, NULL);
    else signal(SIGINT, on_interrupt);
    printf("ready\n");
    fflush(stdout);
    if (argc > 1) sigwait(&set, &got);
    for (int i = 0; argc == 1 && !caught && i < 6000; i++) usleep(5000);
    printf("caught by the program\n");
    return 5;
}
