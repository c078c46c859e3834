// The executable is replaced or removed while it runs: `replaced`, `removed` (as an upgrade would).
// It does so to a copy of itself.
#include "check.h"

static void copy(const char *from, const char *to) {
    char buffer[65536];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    need(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;) need(write(out, buffer, (size_t)n) == n);
    close(in);
    close(out);
}

int main(int argc, char **argv) {
    need(argc == 2);
    if (access("own_copy", F_OK) != 0) {
        copy("/proc/self/exe", "own_copy");
        execl("./own_copy", "own_copy", argv[1], NULL);
        need(!"exec");
    }
    need(unlink("own_copy") == 0);
    if (is(argv[1], "replaced")) copy("/bin/true", "own_copy");
    ready();
    wait_go();
    char exe[512] = "";
    need(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
    char *name = strrchr(exe, '/');
    check(name && strncmp(name, "/own_copy", 9) == 0, "%s", exe);
    printf("%.6f\n", strtod("0.125", NULL));
    return done();
}
