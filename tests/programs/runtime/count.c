/* Prints a number a line, for ever or up to the first argument; the second is the pause between in milliseconds.
 * The sum goes along, so that a number lost or repeated shows in every later line. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv) {
    long last = argc > 1 ? atol(argv[1]) : -1;
    long pause = argc > 2 ? atol(argv[2]) : 100;
    struct timespec wait = {pause / 1000, pause % 1000 * 1000000L};
    long sum = 0;
    for (long i = 1; last < 0 || i <= last; i++) {
        sum += i;
        printf("%ld %ld\n", i, sum);
        fflush(stdout);
        nanosleep(&wait, NULL);
    }
    return 0;
}
