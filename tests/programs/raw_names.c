// Names that are no UTF-8: the executable, the directory, files open, mapped and deleted, the process's name, arguments,
// environment. It starts itself again under such names.
#include "check.h"

#define OWN_COPY "program\xfa"

static void become_a_copy(void) {
    char buffer[65536];
    int in = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), out = open(OWN_COPY, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    need(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;) need(write(out, buffer, (size_t)n) == n);
    close(out);
    need(setenv("RAW\xfe", "value\xfd", 1) == 0);
    execl("./" OWN_COPY, OWN_COPY, "argument\xff", NULL);
    need(!"exec");
}

int main(int argc, char **argv) {
    if (argc == 1) become_a_copy();
    char before[4096], after[4096], exe[4096] = "", bytes[64] = "", name[17] = "";
    need(argc == 2 && is(argv[1], "argument\xff") && is(getenv("RAW\xfe"), "value\xfd"));
    need(mkdir("dir\xff\x80", 0700) == 0 || errno == EEXIST);
    need(chdir("dir\xff\x80") == 0 && getcwd(before, sizeof before));
    need(prctl(PR_SET_NAME, "na\xe4me\xff") == 0);
    int open_one = open("open\xc3", O_RDWR | O_CREAT | O_TRUNC, 0600);
    int mapped = open("mapped\xed\xa0\x80", O_RDWR | O_CREAT | O_TRUNC, 0600);
    int gone = open("gone\xfe", O_RDWR | O_CREAT | O_TRUNC, 0600);
    need(open_one >= 0 && mapped >= 0 && gone >= 0 && write(open_one, "open", 4) == 4 && write(gone, "gone", 4) == 4);
    need(write(mapped, "mapped", 6) == 6 && unlink("gone\xfe") == 0);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
    need(map != MAP_FAILED && close(mapped) == 0);
    // Also what a path in /proc/PID/maps can be taken for.
    int odd = open("a\nb\\012 (deleted)", O_RDWR | O_CREAT | O_TRUNC, 0600);
    need(odd >= 0 && write(odd, "odd", 3) == 3);
    char *odd_map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, odd, 0);
    need(odd_map != MAP_FAILED);
    ready();
    wait_go();
    check(getcwd(after, sizeof after) && strcmp(after, before) == 0, "%s", after);
    check(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0 && strstr(exe, "/" OWN_COPY), "%s", exe);
    check(prctl(PR_GET_NAME, name) == 0 && is(name, "na\xe4me\xff"), "%s", name);
    check(is(argv[1], "argument\xff") && is(getenv("RAW\xfe"), "value\xfd"), "arguments or environment");
    check(pread(open_one, bytes, 64, 0) == 4 && memcmp(bytes, "open", 4) == 0, "%s", bytes);
    check(pread(gone, bytes, 64, 0) == 4 && memcmp(bytes, "gone", 4) == 0, "%s", bytes);
    check(pread(odd, bytes, 64, 0) == 3 && memcmp(odd_map, "odd", 3) == 0, "%s", bytes);
    map[0] = 'M';
    slurp("mapped\xed\xa0\x80", bytes, sizeof bytes);
    check(is(bytes, "Mapped"), "%s", bytes);
    slurp("open\xc3", bytes, sizeof bytes);
    check(is(bytes, "open"), "%s", bytes);
    return done();
}
