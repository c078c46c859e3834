// What every test program is made of: it sets up one kind of state, says `ready()`, waits in
// `wait_go()` (here it is checkpointed, killed and restored), and checks its own state from inside.
// Its output must be the same as that of a run which nobody disturbed.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// A variable that only assembly names.
#define FOR_ASM __attribute__((used)) static

static volatile int failures;
// Set by programs whose own signal handlers run while they wait.
static volatile int may_interrupt;
static char go_file[4096];

// Where Yama lets only a parent trace, the tests' ckptctl, a sibling, needs this leave.
__attribute__((constructor)) static void allow_tracing(void) {
    const char *go = getenv("CKPT_TEST_GO");
    snprintf(go_file, sizeof go_file, "%s", go ? go : "go");
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}

// Prints what went wrong; a check that holds prints nothing.
#define check(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            failures++;                                                                            \
            printf("FAIL line %d: " #condition ": ", __LINE__);                                   \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                         \
            fflush(stdout);                                                                        \
        }                                                                                          \
    } while (0)

// For what must work before there is anything to test.
#define need(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("cannot set up, line %d: " #condition ": %s\n", __LINE__, strerror(errno));    \
            exit(2);                                                                               \
        }                                                                                          \
    } while (0)

// This machine lacks what the program tests.
#define skip(...)                                                                                  \
    do {                                                                                           \
        printf("SKIP: ");                                                                          \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                             \
        fflush(stdout);                                                                            \
        exit(77);                                                                                  \
    } while (0)

static inline void ready(void) {
    printf("ready\n");
    fflush(stdout);
}

static inline int64_t now_ms(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static inline int may_go(void) { return access(go_file, F_OK) == 0; }

// A test that was killed must not leave its program behind for ever.
static inline void give_up_after(int seconds, int64_t since) {
    if (now_ms(CLOCK_MONOTONIC) - since > seconds * 1000LL) {
        printf("nobody said go\n");
        _exit(99);
    }
}

static inline void wait_go(void) {
    int64_t since = now_ms(CLOCK_MONOTONIC);
    while (!may_go()) {
        struct timespec t = {0, 2000000};
        // A handler of the program's own may end it early; the restore must not.
        errno = 0;
        int r = nanosleep(&t, NULL);
        check(r == 0 || may_interrupt, "nanosleep: %s", strerror(errno));
        give_up_after(180, since);
    }
}

static inline int done(void) {
    printf(failures ? "FAILED\n" : "as expected\n");
    fflush(stdout);
    return failures ? 1 : 0;
}

// The kernel's own structure: the C library hides the restorer and two signals.
typedef struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
} kernel_action;

// The mode, for programs that test several things, one per run.
static inline int is(const char *mode, const char *name) { return strcmp(mode, name) == 0; }

// Numbers that tell a wrong page from a right one.
static inline uint64_t pattern(uint64_t n) {
    n ^= n >> 30;
    n *= 0xbf58476d1ce4e5b9ULL;
    n ^= n >> 27;
    n *= 0x94d049bb133111ebULL;
    return n ^ (n >> 31);
}

static inline void fill(void *at, size_t bytes, uint64_t seed) {
    for (size_t i = 0; i < bytes / 8; i++) ((uint64_t *)at)[i] = pattern(seed + i);
}

static inline int is_filled(const void *at, size_t bytes, uint64_t seed) {
    for (size_t i = 0; i < bytes / 8; i++)
        if (((const uint64_t *)at)[i] != pattern(seed + i)) return 0;
    return 1;
}

static inline int is_zero(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (((const char *)at)[i]) return 0;
    return 1;
}

// The first number behind `key` in a file such as /proc/self/status; -1 when it is not there.
static inline long number_in(const char *file, const char *key) {
    FILE *f = fopen(file, "re");
    char line[512];
    long value = -1;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) {
            value = strtol(line + strlen(key), NULL, 10);
            break;
        }
    if (f) fclose(f);
    return value;
}

// A whole small file.
static inline size_t slurp(const char *file, char *into, size_t size) {
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    ssize_t r;
    while (fd >= 0 && n + 1 < size && (r = read(fd, into + n, size - 1 - n)) > 0) n += (size_t)r;
    if (fd >= 0) close(fd);
    into[n] = 0;
    return n;
}

// The VmFlags of the mapping that holds `address`; empty when there is none.
static inline void vm_flags(const void *address, char into[256]) {
    FILE *f = fopen("/proc/self/smaps", "re");
    char line[1024];
    int inside = 0;
    into[0] = 0;
    while (f && fgets(line, sizeof line, f)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from <= (unsigned long)address && (unsigned long)address < to;
        else if (inside && strncmp(line, "VmFlags: ", 9) == 0)
            snprintf(into, 256, "%.240s", line + 9);
    }
    if (f) fclose(f);
    // Soft-dirty says when a page was written last, and is nobody's setting.
    char *dirty = strstr(into, " sd");
    if (dirty) memmove(dirty, dirty + 3, strlen(dirty + 3) + 1);
}

static inline void *anon(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(p != MAP_FAILED);
    return p;
}
