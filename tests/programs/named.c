// Names that PR_SET_VMA gives to anonymous memory.
#include "check.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

static void name_of(const void *address, char into[128]) {
    FILE *f = fopen("/proc/self/maps", "re");
    char line[1024];
    into[0] = 0;
    while (f && fgets(line, sizeof line, f)) {
        unsigned long from, to;
        int at = 0;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &from, &to, &at) == 2 && at &&
            from <= (unsigned long)address && (unsigned long)address < to)
            snprintf(into, 128, "%.100s", line + at);
    }
    if (f) fclose(f);
}

int main(void) {
    char *map = anon(3 * 65536), name[2][128], after[128];
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, map, 65536, "first area") != 0)
        skip("this kernel has no names for memory: %s", strerror(errno));
    need(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, map + 65536, 65536, "second: area") == 0);
    for (int i = 0; i < 2; i++) name_of(map + i * 65536, name[i]);
    printf("%s%s", name[0], name[1]);
    ready();
    wait_go();
    for (int i = 0; i < 2; i++) {
        name_of(map + i * 65536, after);
        check(strcmp(after, name[i]) == 0, "name is %s", after);
    }
    name_of(map + 2 * 65536, after);
    check(after[0] == 0 || after[0] == '\n', "a name for what had none: %s", after);
    return done();
}
