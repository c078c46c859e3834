/* Installs its own handler for SIGINT, which must stay: says how often it ran, and ends after the third. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile sig_atomic_t interrupts;

static void on_interrupt(int signal) {
    (void)signal;
    interrupts++;
}

int main(void) {
    struct sigaction action = {0};
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, NULL);
    printf("ready\n");
    fflush(stdout);
    for (int seen = 0; seen < 3;) {
        pause();
        while (seen < interrupts) {
            printf("interrupt %d\n", ++seen);
            fflush(stdout);
        }
    }
    return 7;
}
