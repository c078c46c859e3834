// What the kernel knows of a process: its id, names, command line, environment, limits, settings.
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include "check.h"

enum { SIZE = 65536 };
typedef struct {
    pid_t pid;
    char exe[512], cwd[512], root[512], comm[64], cmdline[SIZE], environ[SIZE], auxv[4096];
    size_t cmdline_size, environ_size, auxv_size;
    struct rlimit limits[RLIMIT_NLIMITS];
    int personality, dumpable, no_new_privs, subreaper, death_signal, thp, keep_caps, slack, mce, tsc;
    long filter, score, umask;
    char groups[256];
    uid_t uid[3];
    gid_t gid[3];
} state;

static void line_of(const char *key, char *into, size_t size) {
    FILE *f = fopen("/proc/self/status", "re");
    char line[1024];
    into[0] = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) snprintf(into, size, "%.60s", line);
    if (f) fclose(f);
}

static void look(state *s) {
    memset(s, 0, sizeof *s);
    s->pid = getpid();
    need(readlink("/proc/self/exe", s->exe, sizeof s->exe - 1) > 0);
    need(readlink("/proc/self/cwd", s->cwd, sizeof s->cwd - 1) > 0);
    need(readlink("/proc/self/root", s->root, sizeof s->root - 1) > 0);
    slurp("/proc/self/comm", s->comm, sizeof s->comm);
    s->cmdline_size = slurp("/proc/self/cmdline", s->cmdline, SIZE);
    s->environ_size = slurp("/proc/self/environ", s->environ, SIZE);
    s->auxv_size = slurp("/proc/self/auxv", s->auxv, sizeof s->auxv);
    for (int i = 0; i < RLIMIT_NLIMITS; i++) getrlimit(i, &s->limits[i]);
    s->personality = personality(0xffffffff);
    s->dumpable = prctl(PR_GET_DUMPABLE);
    s->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    prctl(PR_GET_CHILD_SUBREAPER, &s->subreaper);
    prctl(PR_GET_PDEATHSIG, &s->death_signal);
    s->thp = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
    s->keep_caps = prctl(PR_GET_KEEPCAPS);
    s->slack = prctl(PR_GET_TIMERSLACK);
    prctl(PR_GET_TSC, &s->tsc);
    s->mce = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
    char text[64];
    slurp("/proc/self/coredump_filter", text, sizeof text);
    s->filter = strtol(text, NULL, 16);
    slurp("/proc/self/oom_score_adj", text, sizeof text);
    s->score = strtol(text, NULL, 10);
    s->umask = umask(0);
    umask((mode_t)s->umask);
    line_of("Groups:", s->groups, sizeof s->groups);
    need(getresuid(&s->uid[0], &s->uid[1], &s->uid[2]) == 0);
    need(getresgid(&s->gid[0], &s->gid[1], &s->gid[2]) == 0);
}

static void set(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max / 2 + 3;
    need(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit = (struct rlimit){12345, 1 << 30};
    need(setrlimit(RLIMIT_CORE, &limit) == 0);
    getrlimit(RLIMIT_STACK, &limit);
    limit.rlim_cur = 9 << 20;
    need(setrlimit(RLIMIT_STACK, &limit) == 0);
    limit = (struct rlimit){100000, 100000};
    need(setrlimit(RLIMIT_CPU, &limit) == 0);
    need(prctl(PR_SET_NAME, "odd) name (S") == 0);
    need(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    // SIGURG does nothing, should the parent's end be told while nobody expects it.
    need(prctl(PR_SET_PDEATHSIG, SIGURG) == 0);
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    need(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
    need(prctl(PR_SET_TIMERSLACK, 77777) == 0);
    int fd = open("/proc/self/coredump_filter", O_WRONLY);
    need(write(fd, "0x7", 3) == 3);
    close(fd);
    fd = open("/proc/self/oom_score_adj", O_WRONLY);
    need(write(fd, "321", 3) == 3);
    close(fd);
    mkdir("deep", 0777);
    mkdir("deep/er", 0777);
    need(chdir("deep/er") == 0);
    umask(0137);
}

int main(int argc, char **argv) {
    static state before, after;
    set();
    const char *mode = argc > 1 ? argv[1] : "";
    if (is(mode, "memory-failure")) need(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
    if (is(mode, "overwritten")) {
        // As daemons do to show what they are at: over the arguments, into the environment.
        char title[] = "a new title of this process";
        snprintf(argv[0], strlen(argv[0]) + 1 + strlen(mode), "%s", title);
    }
    if (is(mode, "not-dumpable")) need(prctl(PR_SET_DUMPABLE, 0) == 0);
    unsigned char *random = (unsigned char *)getauxval(AT_RANDOM), random_before[16];
    memcpy(random_before, random, 16);
    look(&before);
    ready();
    wait_go();
    look(&after);
    check(after.pid == before.pid, "pid %d, was %d", after.pid, before.pid);
    check(strcmp(after.exe, before.exe) == 0, "exe %s, was %s", after.exe, before.exe);
    check(strcmp(after.cwd, before.cwd) == 0, "cwd %s, was %s", after.cwd, before.cwd);
    check(strcmp(after.root, before.root) == 0, "root %s, was %s", after.root, before.root);
    check(strcmp(after.comm, before.comm) == 0, "comm %s, was %s", after.comm, before.comm);
    check(after.cmdline_size == before.cmdline_size &&
          memcmp(after.cmdline, before.cmdline, SIZE) == 0, "command line %s", after.cmdline);
    check(after.environ_size == before.environ_size &&
          memcmp(after.environ, before.environ, SIZE) == 0, "environment %s", after.environ);
    check(after.auxv_size == before.auxv_size && memcmp(after.auxv, before.auxv, 4096) == 0, "auxv");
    check((unsigned char *)getauxval(AT_RANDOM) == random && memcmp(random, random_before, 16) == 0, "AT_RANDOM");
    for (int i = 0; i < RLIMIT_NLIMITS; i++)
        check(after.limits[i].rlim_cur == before.limits[i].rlim_cur &&
              after.limits[i].rlim_max == before.limits[i].rlim_max, "limit %d: %lu %lu", i,
              after.limits[i].rlim_cur, after.limits[i].rlim_max);
#define SAME(FIELD) check(after.FIELD == before.FIELD, #FIELD " %ld, was %ld", (long)after.FIELD, (long)before.FIELD)
    SAME(personality);
    SAME(dumpable);
    SAME(no_new_privs);
    SAME(subreaper);
    SAME(death_signal);
    SAME(thp);
    SAME(keep_caps);
    SAME(slack);
    SAME(tsc);
    SAME(mce);
    SAME(filter);
    SAME(score);
    SAME(umask);
    check(memcmp(after.uid, before.uid, sizeof after.uid) == 0, "user ids");
    check(memcmp(after.gid, before.gid, sizeof after.gid) == 0, "group ids");
    check(strcmp(getenv("TERM"), "xterm") == 0 && setenv("NEW", "value", 1) == 0, "getenv");
    int fd = open("made", O_CREAT | O_WRONLY, 0777);
    struct stat made;
    check(fd >= 0 && fstat(fd, &made) == 0 && (made.st_mode & 0777) == 0640, "mode %o", made.st_mode);
    return done();
}
