// Descriptors of regular files, directories and the harmless devices: offsets, flags, sharing.
#include <dirent.h>
#include <sys/uio.h>
#include "check.h"

static int at(int fd, int number) {
    need(fd >= 0 && dup3(fd, number, O_CLOEXEC) == number);
    close(fd);
    return number;
}

static void regular(void) {
    char bytes[16] = "";
    int a = at(open("a", O_RDWR | O_CREAT | O_TRUNC, 0600), 17);
    need(write(a, "0123456789", 10) == 10 && lseek(a, 3, SEEK_SET) == 3);
    int log = at(open("log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NONBLOCK, 0640), 200);
    need(write(log, "one\n", 4) == 4);
    int read_only = at(open("a", O_RDONLY | O_NOATIME), 60);
    need(lseek(read_only, 1000000, SEEK_SET) == 1000000);
    int path_only = open("a", O_PATH);
    need(path_only >= 0);
    int keeps = open("a", O_RDONLY);
    need(keeps >= 0 && fcntl(keeps, F_SETFD, 0) == 0);
    int flags[] = {fcntl(a, F_GETFL), fcntl(log, F_GETFL), fcntl(read_only, F_GETFL)};
    ready();
    wait_go();
    check(fcntl(a, F_GETFL) == flags[0] && fcntl(log, F_GETFL) == flags[1] &&
          fcntl(read_only, F_GETFL) == flags[2], "flags");
    check(fcntl(a, F_GETFD) == FD_CLOEXEC && fcntl(log, F_GETFD) == FD_CLOEXEC, "close-on-exec is gone");
    check(fcntl(keeps, F_GETFD) == 0, "close-on-exec is set");
    check(lseek(a, 0, SEEK_CUR) == 3, "offset %ld", lseek(a, 0, SEEK_CUR));
    check(read(a, bytes, 3) == 3 && strcmp(bytes, "345") == 0, "read %s", bytes);
    check(write(a, "XYZ", 3) == 3, "%s", strerror(errno));
    check(lseek(read_only, 0, SEEK_CUR) == 1000000, "offset");
    check(write(read_only, "x", 1) == -1 && errno == EBADF, "read-only is writable");
    check(read(log, bytes, 1) == -1 && errno == EBADF, "write-only is readable");
    lseek(log, 0, SEEK_SET);
    check(write(log, "two\n", 4) == 4, "%s", strerror(errno));
    check(fcntl(path_only, F_GETFL) & O_PATH, "no O_PATH");
    slurp("a", bytes, sizeof bytes);
    check(strcmp(bytes, "012345XYZ9") == 0, "a holds %s", bytes);
    slurp("log", bytes, sizeof bytes);
    check(strcmp(bytes, "one\ntwo\n") == 0, "log holds %s", bytes);
}

static void sharing(void) {
    int a = open("a", O_RDWR | O_CREAT | O_TRUNC, 0600);
    need(a >= 0 && write(a, "0123456789", 10) == 10);
    int copy = fcntl(a, F_DUPFD, 90), own = open("a", O_RDONLY);
    need(copy >= 90 && own >= 0);
    // Both have the same offset by chance: that must not make them one.
    lseek(a, 4, SEEK_SET);
    lseek(own, 4, SEEK_SET);
    ready();
    wait_go();
    lseek(a, 6, SEEK_SET);
    check(lseek(copy, 0, SEEK_CUR) == 6, "a copy has an offset of its own: %ld", lseek(copy, 0, SEEK_CUR));
    check(lseek(own, 0, SEEK_CUR) == 4, "another opening follows: %ld", lseek(own, 0, SEEK_CUR));
    fcntl(copy, F_SETFL, O_NONBLOCK);
    check(fcntl(a, F_GETFL) & O_NONBLOCK, "a copy has flags of its own");
    check(!(fcntl(own, F_GETFL) & O_NONBLOCK), "another opening has the same flags");
}

static void directory(void) {
    char name[32];
    mkdir("d", 0755);
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "d/entry%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    DIR *dir = opendir("d");
    need(dir);
    // The C library has read more than it gave: the position that matters is its own and the kernel's.
    int seen[300] = {0}, number;
    struct dirent *entry;
    for (int i = 0; i < 100 && (entry = readdir(dir)); i++)
        if (sscanf(entry->d_name, "entry%d", &number) == 1) seen[number]++;
    int other = open("d", O_RDONLY | O_DIRECTORY);
    ready();
    wait_go();
    while ((entry = readdir(dir)))
        if (sscanf(entry->d_name, "entry%d", &number) == 1) seen[number]++;
    for (int i = 0; i < 300; i++) check(seen[i] == 1, "entry %d was seen %d times", i, seen[i]);
    check(faccessat(other, "entry7", F_OK, 0) == 0, "%s", strerror(errno));
}

static void devices(void) {
    char bytes[64] = "";
    int null = open("/dev/null", O_RDWR), zero = at(open("/dev/zero", O_RDONLY), 33);
    int random = open("/dev/random", O_RDONLY | O_NONBLOCK), urandom = open("/dev/urandom", O_RDONLY);
    int full = open("/dev/full", O_WRONLY | O_APPEND);
    char *zeros = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    need(null >= 0 && random >= 0 && urandom >= 0 && full >= 0 && zeros != MAP_FAILED);
    fill(zeros, 4096, 5);
    ready();
    wait_go();
    check(write(null, "x", 1) == 1 && read(null, bytes, 1) == 0, "null");
    memset(bytes, 1, sizeof bytes);
    check(read(zero, bytes, sizeof bytes) == sizeof bytes && is_zero(bytes, sizeof bytes), "zero");
    check(read(random, bytes, 32) == 32 && !is_zero(bytes, 32), "random");
    memset(bytes, 0, sizeof bytes);
    check(read(urandom, bytes, 32) == 32 && !is_zero(bytes, 32), "urandom");
    check(write(full, "x", 1) == -1 && errno == ENOSPC, "full");
    check(fcntl(full, F_GETFL) & O_APPEND && fcntl(random, F_GETFL) & O_NONBLOCK, "flags");
    check(is_filled(zeros, 4096, 5) && is_zero(zeros + 4096, 4096), "mapped zeros");
}

// A file without a name: its contents (sparse, 10 MiB), offset and mode live on.
static void deleted(int tmpfile) {
    enum { BIG = 10 << 20 };
    char bytes[4096];
    int fd = tmpfile ? open(".", O_RDWR | O_TMPFILE, 0640) : open("gone", O_RDWR | O_CREAT | O_TRUNC, 0640);
    if (tmpfile && fd < 0) skip("no unnamed files on this file system: %s", strerror(errno));
    need(fd >= 0 && (tmpfile || unlink("gone") == 0));
    for (uint64_t at = 0; at < BIG; at += 1 << 20) {
        fill(bytes, sizeof bytes, at);
        need(pwrite(fd, bytes, sizeof bytes, (off_t)at + 8192) == sizeof bytes);
    }
    need(ftruncate(fd, BIG) == 0 && lseek(fd, 12345, SEEK_SET) == 12345);
    int copy = dup(fd);
    struct stat before, after;
    fstat(fd, &before);
    char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(map != MAP_FAILED);
    ready();
    wait_go();
    fstat(fd, &after);
    check(after.st_size == BIG && after.st_mode == before.st_mode, "size %ld mode %o", after.st_size, after.st_mode);
    check(after.st_blocks < 8192, "the holes are filled: %ld blocks", after.st_blocks);
    check(after.st_nlink == 0, "it has a name again");
    check(lseek(copy, 0, SEEK_CUR) == 12345, "offset");
    for (uint64_t at = 0; at < BIG; at += 1 << 20) {
        check(pread(fd, bytes, sizeof bytes, (off_t)at + 8192) == sizeof bytes && is_filled(bytes, sizeof bytes, at),
              "contents at %ld", at);
        check(pread(fd, bytes, 4096, (off_t)at) == 4096 && is_zero(bytes, 4096), "hole at %ld", at);
    }
    map[5] = 'm';
    check(pread(fd, bytes, 1, 5) == 1 && bytes[0] == 'm', "the mapping is of another file");
    check(access("gone", F_OK) != 0, "it has a name again");
}

static void standard(void) {
    char bytes[8] = "";
    struct stat out, err;
    ready();
    wait_go();
    check(read(0, bytes, 5) == 5 && strcmp(bytes, "typed") == 0, "read %s", bytes);
    check(fstat(1, &out) == 0 && fstat(2, &err) == 0 && out.st_ino != err.st_ino, "one pipe for both");
    fprintf(stderr, "to stderr\n");
}

// Without the standard descriptors: numbers below 3 are other files, or closed.
static void closed(void) {
    int saved = dup(1);
    need(saved > 2);
    printf("ready\n");
    fflush(stdout);
    close(0);
    close(2);
    int a = open("a", O_RDWR | O_CREAT | O_TRUNC, 0600);
    need(a == 0 && write(a, "12345", 5) == 5);
    wait_go();
    check(lseek(0, 0, SEEK_CUR) == 5, "descriptor 0");
    check(fcntl(2, F_GETFD) == -1 && errno == EBADF, "descriptor 2 is open");
    check(open("a", O_RDONLY) == 2, "another descriptor is free");
}

int main(int argc, char **argv) {
    need(argc == 2);
    if (is(argv[1], "regular")) regular();
    if (is(argv[1], "sharing")) sharing();
    if (is(argv[1], "directory")) directory();
    if (is(argv[1], "devices")) devices();
    if (is(argv[1], "deleted")) deleted(0);
    if (is(argv[1], "unnamed")) deleted(1);
    if (is(argv[1], "standard")) standard();
    if (is(argv[1], "closed")) closed();
    return done();
}
