// Files that have no name (any more) and are only mapped, or open as well: memfd, sealed memfd, unlinked ones.
#include "check.h"

enum { PAGE = 4096, SIZE = 16 * PAGE };

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static void name_of(int fd, char into[256]) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, into, 255);
    into[n > 0 ? n : 0] = 0;
}

static void memfd(void) {
    char before[256], after[256], byte = 0;
    int fd = memfd_create("a \"name\"", MFD_CLOEXEC | MFD_ALLOW_SEALING), closed = memfd_create("only mapped", 0);
    need(fd >= 0 && closed >= 0 && ftruncate(fd, SIZE) == 0 && ftruncate(closed, SIZE) == 0);
    char *shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *twin = mmap(NULL, SIZE / 2, PROT_READ, MAP_SHARED, fd, SIZE / 2);
    char *private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    char *alone = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, closed, 0);
    need(shared != MAP_FAILED && twin != MAP_FAILED && private != MAP_FAILED && alone != MAP_FAILED);
    close(closed);
    fill(shared, SIZE / 2, 1);
    fill(alone, SIZE, 2);
    fill(private + PAGE, PAGE, 3);
    need(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0 && lseek(fd, 123, SEEK_SET) == 123);
    int seals = fcntl(fd, F_GET_SEALS);
    name_of(fd, before);
    ready();
    wait_go();
    name_of(fd, after);
    check(strcmp(before, after) == 0, "name %s, was %s", after, before);
    check(fcntl(fd, F_GET_SEALS) == seals, "seals %x, were %x", fcntl(fd, F_GET_SEALS), seals);
    check(lseek(fd, 0, SEEK_CUR) == 123 && fcntl(fd, F_GETFD) == FD_CLOEXEC, "offset or close-on-exec");
    check(ftruncate(fd, SIZE * 2) == -1 && errno == EPERM, "it can grow");
    check(is_filled(shared, SIZE / 2, 1) && is_zero(shared + SIZE / 2, SIZE / 2), "contents");
    check(is_filled(private, PAGE, 1) && is_filled(private + PAGE, PAGE, 3), "private changes");
    check(is_filled(alone, SIZE, 2), "contents of the closed one");
    shared[SIZE / 2 + 7] = 's';
    check(twin[7] == 's' && pread(fd, &byte, 1, SIZE / 2 + 7) == 1 && byte == 's', "not one memory any more");
    check(private[SIZE / 2 + 7] == 's', "an untouched private page does not follow");
}

static void sealed(void) {
    char bytes[PAGE];
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING), unsealable = memfd_create("unsealable", 0);
    int future = memfd_create("future", MFD_ALLOW_SEALING);
    fill(bytes, PAGE, 4);
    need(fd >= 0 && write(fd, bytes, PAGE) == PAGE && write(unsealable, bytes, PAGE) == PAGE);
    need(write(future, bytes, PAGE) == PAGE);
    char *writable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0);
    need(writable != MAP_FAILED && fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
    need(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0);
    char *map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    need(map != MAP_FAILED);
    int seals[] = {fcntl(fd, F_GET_SEALS), fcntl(unsealable, F_GET_SEALS), fcntl(future, F_GET_SEALS)};
    ready();
    wait_go();
    check(fcntl(fd, F_GET_SEALS) == seals[0], "seals %x, were %x", fcntl(fd, F_GET_SEALS), seals[0]);
    check(fcntl(unsealable, F_GET_SEALS) == seals[1], "seals %x, were %x", fcntl(unsealable, F_GET_SEALS), seals[1]);
    check(fcntl(future, F_GET_SEALS) == seals[2], "seals %x, were %x", fcntl(future, F_GET_SEALS), seals[2]);
    check(is_filled(map, PAGE, 4) && pread(unsealable, bytes, PAGE, 0) == PAGE && is_filled(bytes, PAGE, 4), "contents");
    check(write(fd, "x", 1) == -1 && errno == EPERM && write(future, "x", 1) == -1 && errno == EPERM, "writable");
    writable[9] = 'w';
    check(pread(future, bytes, 1, 9) == 1 && bytes[0] == 'w', "the old mapping is of another file");
}

// A file that was unlinked after it was mapped, private or shared, with its descriptor closed.
// What lies in the file under changed private pages only root can see, so only root may `forget` the changes.
static void unlinked(int flags, int forget) {
    int fd = open("goes", O_RDWR | O_CREAT | O_TRUNC, 0600);
    char bytes[SIZE];
    fill(bytes, SIZE, 5);
    need(fd >= 0 && write(fd, bytes, SIZE) == SIZE);
    char *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, fd, 0);
    char *half = mmap(NULL, SIZE / 2, PROT_READ, flags, fd, SIZE / 2);
    need(map != MAP_FAILED && half != MAP_FAILED && close(fd) == 0 && unlink("goes") == 0);
    fill(map + PAGE, PAGE, 6);
    fill(map + SIZE / 2, PAGE, 7);
    memset(map + 2 * PAGE, 0, PAGE);
    int is_private = flags & MAP_PRIVATE;
    ready();
    wait_go();
    check(access("goes", F_OK) != 0, "it has a name again");
    for (int page = 0; page < SIZE / PAGE; page++) {
        const char *at = map + page * PAGE;
        int right = page == 1 ? is_filled(at, PAGE, 6) : page == 2 ? is_zero(at, PAGE) :
            page == SIZE / PAGE / 2 ? is_filled(at, PAGE, 7) : is_filled(at, PAGE, 5 + (uint64_t)page * PAGE / 8);
        check(right, "page %d", page);
    }
    check(is_filled(half, PAGE, is_private ? 5 + SIZE / 16 : 7), "the other view");
    if (forget) {
        madvise(map, SIZE, MADV_DONTNEED);
        check(is_filled(map, SIZE, 5), "MADV_DONTNEED did not bring the file back");
    }
    if (!is_private) {
        map[SIZE / 2 + 3] = 'u';
        check(half[3] == 'u', "the other view does not follow");
    }
}

int main(int argc, char **argv) {
    need(argc == 2);
    if (is(argv[1], "memfd")) memfd();
    if (is(argv[1], "sealed")) sealed();
    if (is(argv[1], "unlinked-private")) unlinked(MAP_PRIVATE, 0);
    if (is(argv[1], "unlinked-forgotten")) unlinked(MAP_PRIVATE, 1);
    if (is(argv[1], "unlinked-shared")) unlinked(MAP_SHARED, 0);
    return done();
}
