// How each thread is scheduled: policy, priority, nice, affinity, timer slack, I/O priority.
#include <sched.h>
#include "check.h"

enum { THREADS = 4, IOPRIO_WHO_PROCESS = 1 };
static pthread_barrier_t set_up;

typedef struct {
    int policy, priority, nice, io;
    long slack;
    cpu_set_t cpus;
} how;

static how now(void) {
    how h;
    struct sched_param parameters;
    memset(&h, 0, sizeof h);
    h.policy = sched_getscheduler(0);
    sched_getparam(0, &parameters);
    h.priority = parameters.sched_priority;
    h.nice = getpriority(PRIO_PROCESS, (id_t)gettid());
    h.io = (int)syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0);
    h.slack = prctl(PR_GET_TIMERSLACK);
    sched_getaffinity(0, sizeof h.cpus, &h.cpus);
    return h;
}

static void *work(void *argument) {
    long me = (long)argument;
    int policies[] = {SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, SCHED_OTHER};
    struct sched_param none = {0}, some = {.sched_priority = 7};
    need(sched_setscheduler(0, policies[me], &none) == 0);
    need(setpriority(PRIO_PROCESS, (id_t)gettid(), (int)me * 3 + 1) == 0);
    need(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (2 << 13) | (me + 2)) == 0);
    need(prctl(PR_SET_TIMERSLACK, 60000 + me * 1000) == 0);
    cpu_set_t cpus;
    sched_getaffinity(0, sizeof cpus, &cpus);
    if (me == 1 && CPU_COUNT(&cpus) > 1) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &cpus)) {
                CPU_CLR(cpu, &cpus);
                break;
            }
        need(sched_setaffinity(0, sizeof cpus, &cpus) == 0);
    }
    // Only root may; then it is tested as well.
    if (me == 3 && sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &some) != 0)
        need(errno == EPERM);
    how before = now();
    pthread_barrier_wait(&set_up);
    wait_go();
    how after = now();
    check(after.policy == before.policy && after.priority == before.priority, "policy %d, was %d",
          after.policy, before.policy);
    check(after.nice == before.nice, "nice %d, was %d", after.nice, before.nice);
    check(after.io == before.io, "I/O priority %x, was %x", after.io, before.io);
    check(after.slack == before.slack, "timer slack %ld, was %ld", after.slack, before.slack);
    check(CPU_EQUAL(&after.cpus, &before.cpus), "affinity");
    return NULL;
}

int main(void) {
    pthread_t id[THREADS];
    pthread_barrier_init(&set_up, NULL, THREADS + 1);
    for (long i = 0; i < THREADS; i++) need(pthread_create(&id[i], NULL, work, (void *)i) == 0);
    pthread_barrier_wait(&set_up);
    ready();
    for (int i = 0; i < THREADS; i++) pthread_join(id[i], NULL);
    return done();
}
