// What each thread has of its own: id, name, thread-local variables, signal mask, alternate stack,
// rights, rseq, and the place where the kernel announces its end. With `new-ids` the ids may have changed
// (namespaces forbidden), but everything that is built on them works.
#include <stddef.h>
#include "check.h"

enum { THREADS = 6, ALTERNATE = 65536 };
static int new_ids;
static pthread_barrier_t set_up;
static __thread char local[300];
static __thread char *alternate;
static __thread int stack_was_right;
static pthread_mutex_t careful, nested;

extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

// Ids, capabilities and no_new_privs belong to each thread alone.
static void may_do(char into[600]) {
    static const char *const KEYS[] = {"Uid:", "Gid:", "NoNewPrivs:", "CapInh:", "CapPrm:", "CapEff:", "CapAmb:"};
    FILE *f = fopen("/proc/thread-self/status", "re");
    char line[512];
    into[0] = 0;
    while (f && fgets(line, sizeof line, f))
        for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
            if (strncmp(line, KEYS[i], strlen(KEYS[i])) == 0 && strlen(into) + strlen(line) < 600) strcat(into, line);
    if (f) fclose(f);
}

static uint32_t rseq_cpu(void) {
    char *self;
    __asm__("mov %%fs:0, %0" : "=r"(self));
    return *(volatile uint32_t *)(self + __rseq_offset + 4);
}

// A registered rseq area names the processor on which the thread runs, whichever it is moved to.
static void check_rseq(void) {
    if (!&__rseq_size || __rseq_size == 0) return;
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        check(sched_setaffinity(0, sizeof one, &one) == 0, "%s", strerror(errno));
        check(rseq_cpu() == (uint32_t)cpu, "rseq says %u on processor %d", rseq_cpu(), cpu);
    }
    sched_setaffinity(0, sizeof all, &all);
}

static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    char *here = __builtin_frame_address(0);
    stack_was_right = here > alternate && here < alternate + ALTERNATE;
}

static void *work(void *argument) {
    long me = (long)argument;
    char name[16], after[16];
    sigset_t mask, mask_after;
    stack_t stack = {.ss_size = ALTERNATE}, stack_after;
    snprintf(name, sizeof name, "worker (%ld)", me);
    pthread_setname_np(pthread_self(), name);
    snprintf(local, sizeof local, "local of %ld", me);
    sigemptyset(&mask);
    for (int s = 34 + (int)me; s < 60; s += 3) sigaddset(&mask, s);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    stack.ss_sp = alternate = anon(ALTERNATE);
    stack.ss_flags = me % 2 ? 0 : (int)0x80000000; // SS_AUTODISARM
    need(sigaltstack(&stack, NULL) == 0);
    pid_t tid = gettid();
    char may_before[600], may_after[600];
    may_do(may_before);
    pthread_barrier_wait(&set_up);
    wait_go();
    check(new_ids || gettid() == tid, "thread id is %d, was %d", gettid(), tid);
    pthread_getname_np(pthread_self(), after, sizeof after);
    check(strcmp(name, after) == 0, "name is %s", after);
    snprintf(name, sizeof name, "local of %ld", me);
    check(strcmp(name, local) == 0, "thread-local is %s", local);
    pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
    check(memcmp(&mask, &mask_after, 8) == 0, "signal mask");
    sigaltstack(NULL, &stack_after);
    check(stack_after.ss_sp == stack.ss_sp && stack_after.ss_size == stack.ss_size &&
          stack_after.ss_flags == stack.ss_flags, "alternate stack, flags %x", stack_after.ss_flags);
    may_do(may_after);
    check(strcmp(may_before, may_after) == 0, "who it is and what it may: %s, was %s", may_after, may_before);
    check(pthread_kill(pthread_self(), SIGUSR1) == 0 && stack_was_right, "handler on another stack");
    // These two compare the owner with the thread's own id.
    check(pthread_mutex_lock(&careful) == 0, "lock");
    check(pthread_mutex_lock(&careful) == EDEADLK, "a second lock was given");
    check(pthread_mutex_unlock(&careful) == 0, "unlock");
    check(pthread_mutex_lock(&nested) == 0 && pthread_mutex_lock(&nested) == 0, "lock twice");
    check(pthread_mutex_unlock(&nested) == 0 && pthread_mutex_unlock(&nested) == 0, "unlock twice");
    check_rseq();
    return (void *)me;
}

int main(int argc, char **argv) {
    new_ids = argc == 2 && is(argv[1], "new-ids");
    pthread_t id[THREADS];
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&careful, &kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&nested, &kind);
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    pthread_barrier_init(&set_up, NULL, THREADS);
    for (long i = 0; i < THREADS - 1; i++)
        need(pthread_create(&id[i], NULL, work, (void *)i) == 0);
    pid_t pid = getpid();
    need(pthread_create(&id[THREADS - 1], NULL, work, (void *)(THREADS - 1)) == 0);
    usleep(50000);
    ready();
    for (long i = 0; i < THREADS; i++) {
        void *result = NULL;
        // The kernel wakes a joiner only through clear_child_tid.
        check(pthread_join(id[i], &result) == 0 && result == (void *)i, "join %ld", i);
    }
    check(new_ids || (getpid() == pid && gettid() == pid), "pid is %d, was %d", getpid(), pid);
    check(getpid() == syscall(SYS_gettid), "main thread");
    check(raise(SIGURG) == 0, "raise");
    return done();
}
