// Has written five lines to the file `log`, and goes on with five more: what the harness does to the file in between is the test.
// With `plain` the file is not in append mode.
#include "check.h"

int main(int argc, char **argv) {
    int append = argc == 2 && is(argv[1], "plain") ? 0 : O_APPEND;
    int fd = open("log", O_WRONLY | O_CREAT | append, 0644);
    need(fd >= 0);
    for (int i = 1; i <= 5; i++) dprintf(fd, "line %d\n", i);
    ready();
    wait_go();
    for (int i = 6; i <= 10; i++) dprintf(fd, "line %d\n", i);
    return done();
}
