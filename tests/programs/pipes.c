// Pipes that a process made for itself: what is in them, how much they hold, their flags, who shares an end.
#include <sys/ioctl.h>
#include <sys/uio.h>
#include "check.h"

static int unread(int fd) {
    int waiting = -1;
    ioctl(fd, FIONREAD, &waiting);
    return waiting;
}

// Two pipes with data: a small one with ends at odd numbers, and one larger than the default, nearly full.
static void contents(void) {
    enum { BIG = 600000 };
    static char sent[BIG], got[BIG];
    int small[2], big[2];
    need(pipe2(small, O_CLOEXEC) == 0 && pipe(big) == 0);
    need(dup3(small[1], 300, 0) == 300 && dup3(small[0], 41, O_CLOEXEC) == 41);
    int larger = fcntl(big[1], F_SETPIPE_SZ, 1 << 20);
    if (larger < 0) skip("no pipe of 1 MiB may be made: %s", strerror(errno));
    need(fcntl(small[0], F_SETPIPE_SZ, 4096) == 4096);
    fill(sent, BIG, 11);
    // In pieces, so that there are many half filled buffers.
    for (int at = 0; at < BIG; at += 5000) need(write(big[1], sent + at, 5000) == 5000);
    need(write(300, "hel", 3) == 3 && write(small[1], "lo", 2) == 2);
    need(fcntl(big[0], F_SETFL, O_NONBLOCK) == 0);
    int flags[] = {fcntl(big[0], F_GETFL), fcntl(big[1], F_GETFL), fcntl(41, F_GETFL), fcntl(300, F_GETFL)};
    struct stat reading, writing;
    ready();
    wait_go();
    check(fcntl(small[0], F_GETPIPE_SZ) == 4096, "capacity %d", fcntl(small[0], F_GETPIPE_SZ));
    check(fcntl(big[1], F_GETPIPE_SZ) == larger, "capacity %d", fcntl(big[1], F_GETPIPE_SZ));
    check(fcntl(big[0], F_GETFL) == flags[0] && fcntl(big[1], F_GETFL) == flags[1] && fcntl(41, F_GETFL) == flags[2] &&
          fcntl(300, F_GETFL) == flags[3], "flags %x %x %x %x, were %x %x %x %x", fcntl(big[0], F_GETFL),
          fcntl(big[1], F_GETFL), fcntl(41, F_GETFL), fcntl(300, F_GETFL), flags[0], flags[1], flags[2], flags[3]);
    check(fcntl(small[0], F_GETFD) == FD_CLOEXEC && fcntl(41, F_GETFD) == FD_CLOEXEC && fcntl(300, F_GETFD) == 0 &&
          fcntl(big[0], F_GETFD) == 0, "close-on-exec");
    check(fstat(small[0], &reading) == 0 && fstat(300, &writing) == 0 && reading.st_ino == writing.st_ino, "two pipes");
    check(fstat(big[1], &writing) == 0 && reading.st_ino != writing.st_ino, "one pipe");
    check(unread(41) == 5 && unread(big[0]) == BIG, "unread %d, %d", unread(41), unread(big[0]));
    check(write(300, "!", 1) == 1 && read(41, got, 100) == 6 && memcmp(got, "hello!", 6) == 0, "%.6s", got);
    ssize_t all = 0;
    for (ssize_t n; (n = read(big[0], got + all, sizeof got)) > 0;) all += n;
    check(errno == EAGAIN && all == BIG && memcmp(sent, got, BIG) == 0, "%ld bytes, %s", (long)all, strerror(errno));
    // A copy of an end has its flags, another end has not.
    fcntl(small[0], F_SETFL, O_NONBLOCK);
    check(fcntl(41, F_GETFL) & O_NONBLOCK, "a copy has flags of its own");
    check(!(fcntl(300, F_GETFL) & O_NONBLOCK), "the other end has the same flags");
    // The last writer closes: end of file. The last reader closes: EPIPE.
    close(300);
    close(small[1]);
    check(read(41, got, 1) == 0, "no end of file");
    signal(SIGPIPE, SIG_IGN);
    close(big[0]);
    check(write(big[1], "x", 1) == -1 && errno == EPIPE, "%s", strerror(errno));
}

// Full to the last byte: the writer must not get in more than before.
static void full(void) {
    char byte = 'x', got[4096];
    int ends[2];
    need(pipe2(ends, O_NONBLOCK) == 0 && fcntl(ends[0], F_SETPIPE_SZ, 8192) == 8192);
    int sent = 0;
    while (write(ends[1], &byte, 1) == 1) sent++;
    ready();
    wait_go();
    check(unread(ends[0]) == sent, "%d bytes of %d", unread(ends[0]), sent);
    check(write(ends[1], &byte, 1) == -1 && errno == EAGAIN, "%s", strerror(errno));
    check(read(ends[0], got, 4096) == 4096 && got[0] == 'x' && got[4095] == 'x', "%s", strerror(errno));
    check(write(ends[1], &byte, 1) == 1, "%s", strerror(errno));
}

static int to_reader[2], to_nobody[2], done_writing;

static void *reads(void *bytes) {
    ssize_t n = read(to_reader[0], bytes, 100);
    check(n == 5, "read gave %ld: %s", (long)n, strerror(errno));
    return NULL;
}

static void *writes(void *unused) {
    static char bytes[100000];
    fill(bytes, sizeof bytes, 21);
    // Any stop of the thread, as by SIGSTOP, makes the kernel end a write that has begun with what it has got rid of.
    for (size_t all = 0; all < sizeof bytes;) {
        ssize_t n = write(to_nobody[1], bytes + all, sizeof bytes - all);
        check(n > 0, "write gave %ld: %s", (long)n, strerror(errno));
        if (n <= 0) break;
        all += (size_t)n;
    }
    __atomic_store_n(&done_writing, 1, __ATOMIC_SEQ_CST);
    return unused;
}

// One thread waits for data, another for room, in the middle of what it has to write.
static void blocked(void) {
    static char got[100000];
    char bytes[101] = "";
    pthread_t reader, writer;
    need(pipe(to_reader) == 0 && pipe(to_nobody) == 0 && fcntl(to_nobody[0], F_SETPIPE_SZ, 16384) == 16384);
    need(pthread_create(&reader, NULL, reads, bytes) == 0 && pthread_create(&writer, NULL, writes, NULL) == 0);
    while (unread(to_nobody[0]) < 16384) usleep(1000);
    ready();
    wait_go();
    check(!done_writing && unread(to_nobody[0]) == 16384, "it has not waited: %d", unread(to_nobody[0]));
    check(write(to_reader[1], "hello", 5) == 5, "%s", strerror(errno));
    pthread_join(reader, NULL);
    check(is(bytes, "hello"), "%s", bytes);
    for (size_t all = 0; all < sizeof got;) {
        ssize_t n = read(to_nobody[0], got + all, sizeof got - all);
        need(n > 0);
        all += (size_t)n;
    }
    check(is_filled(got, sizeof got, 21), "lost or repeated");
    pthread_join(writer, NULL);
    check(unread(to_nobody[0]) == 0, "%d bytes too many", unread(to_nobody[0]));
}

int main(int argc, char **argv) {
    need(argc == 2);
    if (is(argv[1], "contents")) contents();
    if (is(argv[1], "full")) full();
    if (is(argv[1], "blocked")) blocked();
    return done();
}
