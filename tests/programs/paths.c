// Uses files of one directory by their paths: absolute and relative ones, descriptors, mappings, the executable. The harness
// moves the directory away in between and shows it where it was.
//   paths DIR [MODE]    DIR/bin/paths is this program; DIR/in holds `data` and `more`; DIR/work is the working directory
#include <dirent.h>
#include "check.h"

static const char *dir;
static char text[4096];

static const char *in_dir(const char *name) {
    static char path[2][4096];
    static int which;
    which ^= 1;
    snprintf(path[which], sizeof path[which], "%s/%s", dir, name);
    return path[which];
}

static const char *target(const char *link) {
    static char to[2][4096];
    static int which;
    which ^= 1;
    ssize_t n = readlink(link, to[which], sizeof to[which] - 1);
    to[which][n < 0 ? 0 : n] = 0;
    return to[which];
}

static const char *opened(int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return target(link);
}

static int is_mapped(const char *path) {
    char line[8192];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        char *at = strchr(line, '/');
        if (at) at[strcspn(at, "\n")] = 0;
        found |= at && strcmp(at, path) == 0;
    }
    if (maps) fclose(maps);
    return found;
}

static int entries(const char *path) {
    DIR *d = opendir(path);
    int n = 0;
    // Other tests make directories with names that begin like this.
    for (struct dirent *entry; d && (entry = readdir(d));)
        n += entry->d_name[0] != '.' && strncmp(entry->d_name, "ckpt-view", 9) != 0;
    if (d) closedir(d);
    return n;
}

static void append(const char *path, const char *line) {
    int fd = open(path, O_WRONLY | O_APPEND);
    check(fd >= 0, "%s: %s", path, strerror(errno));
    check(write(fd, line, strlen(line)) == (ssize_t)strlen(line), "%s: %s", path, strerror(errno));
    close(fd);
}

int main(int argc, char **argv) {
    need(argc >= 2);
    dir = argv[1];
    const char *mode = argc > 2 ? argv[2] : "";
    // Without a mount namespace only what is open or mapped is there.
    int by_name = !is(mode, "no-names");
    need(chdir(in_dir("work")) == 0);
    int data = open(in_dir("in/data"), O_RDONLY), log = open("log", O_RDWR | O_APPEND | O_CREAT, 0644);
    int in = open(in_dir("in"), O_RDONLY | O_DIRECTORY), gone = open("gone", O_RDWR | O_CREAT, 0600);
    need(data >= 0 && log >= 0 && in >= 0 && gone >= 0 && unlink("gone") == 0 && write(gone, "gone", 4) == 4);
    char *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, data, 0);
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, log, 0);
    need(map != MAP_FAILED && shared != MAP_FAILED);
    need(read(data, text, 5) == 5);
    append("log", "before\n");
    int beside = entries(in_dir("..")), slash = entries("/"), inside = entries(in_dir("in"));
    ready();
    wait_go();

    check(read(data, text, 6) == 6 && memcmp(text, "second", 6) == 0, "read %.6s", text);
    check(memcmp(map, "first", 5) == 0, "mapped %.5s", map);
    check(write(log, "after\n", 6) == 6, "%s", strerror(errno));
    check(memcmp(shared, "before\nafter\n", 13) == 0, "mapped %.13s", shared);
    check(pread(gone, text, 4, 0) == 4 && memcmp(text, "gone", 4) == 0, "gone: %.4s", text);
    int more = openat(in, "more", O_RDONLY);
    check(more >= 0, "%s", strerror(errno));
    if (!by_name) return done();

    check(is(target("/proc/self/exe"), in_dir("bin/paths")), "%s", target("/proc/self/exe"));
    check(is_mapped(in_dir("bin/paths")) && is_mapped(in_dir("in/data")) && is_mapped(in_dir("work/log")), "not mapped");
    check(is(opened(data), in_dir("in/data")) && is(opened(in), in_dir("in")), "%s, %s", opened(data), opened(in));
    check(is(opened(log), in_dir("work/log")) && is(opened(more), in_dir("in/more")), "%s, %s", opened(log), opened(more));
    check(getcwd(text, sizeof text) && is(text, in_dir("work")), "%s", text);
    check(slurp(in_dir("in/data"), text, sizeof text) && strncmp(text, "firstsecond", 11) == 0, "%s", text);
    check(slurp("../in/data", text, sizeof text) && strncmp(text, "firstsecond", 11) == 0, "%s", text);
    append("log", "relative\n");
    append(in_dir("work/log"), "absolute\n");
    int made = open("made", O_WRONLY | O_CREAT | O_EXCL, 0644);
    check(made >= 0 && write(made, "made", 4) == 4 && rename("made", "renamed") == 0, "%s", strerror(errno));
    if (is(mode, "read-only")) check(open(in_dir("in/new"), O_WRONLY | O_CREAT, 0600) == -1 && errno == EROFS, "written");
    // All that was beside it still is, and nothing else.
    check(entries(in_dir("..")) == beside, "%d entries, were %d", entries(in_dir("..")), beside);
    check(entries("/") == slash, "%d entries, were %d", entries("/"), slash);
    check(entries(in_dir("in")) == inside, "%d entries, were %d", entries(in_dir("in")), inside);
    struct stat stat_in, stat_fd;
    check(stat(in_dir("in"), &stat_in) == 0 && fstat(in, &stat_fd) == 0 && stat_in.st_ino == stat_fd.st_ino, "another directory");

    // What every program needs goes on.
    check(number_in("/proc/self/status", "Pid:") == getpid(), "/proc shows %ld", number_in("/proc/self/status", "Pid:"));
    check(access("/etc/passwd", R_OK) == 0 && access("/sys/kernel", R_OK) == 0, "%s", strerror(errno));
    check(open("/dev/null", O_RDWR) >= 0 && open("/dev/urandom", O_RDONLY) >= 0, "%s", strerror(errno));
    FILE *temporary = tmpfile();
    check(temporary && fputs("x", temporary) >= 0 && fclose(temporary) == 0, "%s", strerror(errno));
    return done();
}
