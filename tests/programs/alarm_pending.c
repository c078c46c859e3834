// An interval timer goes on although its signal is pending: the kernel starts it again only when that is delivered.
#include <sys/time.h>
#include "check.h"

static volatile int fired;
static void on_alarm(int s) { (void)s; fired++; }

int main(void) {
    struct itimerval every = {{0, 20000}, {0, 20000}};
    sigset_t alarm;
    signal(SIGALRM, on_alarm);
    may_interrupt = 1;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    sigprocmask(SIG_BLOCK, &alarm, NULL);
    need(setitimer(ITIMER_REAL, &every, NULL) == 0);
    usleep(60000);
    ready();
    wait_go();
    sigprocmask(SIG_UNBLOCK, &alarm, NULL);
    for (int64_t since = now_ms(CLOCK_MONOTONIC); fired < 5 && now_ms(CLOCK_MONOTONIC) - since < 2000;) usleep(5000);
    check(fired >= 5, "fired %d times", fired);
    return done();
}
