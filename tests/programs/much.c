// Prints numbers as fast as they are taken, `much MARK`, until its input ends.
#include <poll.h>
#include "check.h"

int main(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    char byte;
    for (long number = 1;; number++) {
        printf("%ld\n", number);
        if (number % 1024 == 0 && poll(&input, 1, 0) == 1 && read(0, &byte, 1) == 0) break;
    }
    return 17;
}
