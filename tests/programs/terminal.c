// A program on a terminal: `raw` has changed its settings, `reads` waits for a line, `job` is in the foreground.
#include <sys/ioctl.h>
#include <termios.h>
#include "check.h"

static void raw(void) {
    struct termios mine, now;
    need(tcgetattr(0, &mine) == 0);
    cfmakeraw(&mine);
    mine.c_cc[VMIN] = 3;
    mine.c_cc[VTIME] = 7;
    mine.c_oflag |= OPOST | ONLCR;
    need(tcsetattr(0, TCSANOW, &mine) == 0);
    ready();
    wait_go();
    need(tcgetattr(0, &now) == 0);
    check(now.c_iflag == mine.c_iflag && now.c_oflag == mine.c_oflag && now.c_lflag == mine.c_lflag,
          "modes %x %x %x", now.c_iflag, now.c_oflag, now.c_lflag);
    check(memcmp(now.c_cc, mine.c_cc, sizeof now.c_cc) == 0, "characters");
}

static void reads(void) {
    char line[64] = "";
    ready();
    ssize_t n = read(0, line, sizeof line - 1);
    check(n > 0, "%s", strerror(errno));
    printf("read: %s", line);
}

static void job(void) {
    int other = open("/dev/tty", O_RDWR | O_CLOEXEC);
    need(other >= 0 && isatty(0) && isatty(1) && isatty(2));
    ready();
    wait_go();
    check(isatty(0) && isatty(1) && isatty(2) && isatty(other), "no terminal");
    check(tcgetpgrp(0) > 0, "%s", strerror(errno));
    check(write(other, "by /dev/tty\n", 12) == 12, "%s", strerror(errno));
}

int main(int argc, char **argv) {
    need(argc == 2);
    if (is(argv[1], "raw")) raw();
    if (is(argv[1], "reads")) reads();
    if (is(argv[1], "job")) job();
    return done();
}
