/* Two numbers that must be equal outside of a critical section. Ctrl+C strikes inside; the save waits for its end.
 * Prints "held" when it is inside for the first time, then "round N", and "torn" if the numbers ever differ in a
 * restored process. Ends after the number of rounds in the first argument, 20 by default. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ckpt.h"

static volatile long left, right;

static void check(int restored, void *unused) {
    (void)unused;
    if (restored && left != right) abort();
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 20;
    struct timespec wait = {0, 50 * 1000 * 1000};
    ckpt_after(check, NULL);
    for (long i = 1; i <= rounds; i++) {
        ckpt_hold();
        ckpt_hold();
        left++;
        if (i == 1) {
            printf("held\n");
            fflush(stdout);
            if (ckpt_checkpoint() != -1 || errno != EBUSY) return 2;
        }
        nanosleep(&wait, NULL);
        right++;
        ckpt_release();
        ckpt_release();
        printf("round %ld\n", i);
        fflush(stdout);
    }
    return left == right ? 0 : 1;
}
