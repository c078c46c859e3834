// Holds one thing that cannot be saved, at descriptor 77 if it is one, and is none the worse for the refusal.
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include "check.h"

enum { NUMBER = 77 };

static int at(int fd) {
    if (fd < 0) skip("not to be had here: %s", strerror(errno));
    need(dup2(fd, NUMBER) == NUMBER);
    close(fd);
    return NUMBER;
}

static void filter(void) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) skip("no seccomp: %s", strerror(errno));
}

int main(int argc, char **argv) {
    need(argc == 2);
    const char *what = argv[1];
    int pair[2] = {-1, -1}, fd = -1, value = 0;
    char bytes[8] = "";
    pid_t child = 0;
    void *shared = NULL;
    if (is(what, "tcp")) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fd = at(socket(AF_INET, SOCK_STREAM, 0));
        need(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 5) == 0);
    }
    if (is(what, "unix")) {
        need(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        fd = at(pair[0]);
    }
    if (is(what, "pipe")) {
        need(pipe(pair) == 0);
        fd = at(pair[0]);
        // Its other end is held by a process that is nobody's child here.
        if ((child = fork()) == 0) {
            if (fork()) _exit(0);
            close(NUMBER);
            wait_go();
            _exit(write(pair[1], "hello", 5) != 5);
        }
        need(waitpid(child, NULL, 0) == child);
        close(pair[1]);
        pair[1] = -1;
        child = 0;
    }
    if (is(what, "timerfd")) fd = at(timerfd_create(CLOCK_MONOTONIC, 0));
    if (is(what, "inotify")) need(inotify_add_watch(fd = at(inotify_init1(0)), ".", IN_CREATE) > 0);
    if (is(what, "kmsg")) fd = at(open("/dev/kmsg", O_RDONLY | O_NONBLOCK));
    if (is(what, "ptmx")) fd = at(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    if (is(what, "shm")) {
        int id = shmget(IPC_PRIVATE, 4096, 0600);
        if (id < 0) skip("no shared memory of System V: %s", strerror(errno));
        shared = shmat(id, NULL, 0);
        shmctl(id, IPC_RMID, NULL);
        need(shared != (void *)-1);
        fill(shared, 4096, 3);
    }
    if (is(what, "seccomp")) filter();
    if (is(what, "child")) {
        child = fork();
        if (child == 0) {
            wait_go();
            _exit(7);
        }
        printf("child %d\n", child);
    }
    // So that the named one is the first that is found.
    if (pair[1] >= 0) {
        need(dup2(pair[1], NUMBER + 1) == NUMBER + 1);
        close(pair[1]);
        pair[1] = NUMBER + 1;
    }
    ready();
    wait_go();
    if (is(what, "pipe")) check(read(fd, bytes, 5) == 5 && is(bytes, "hello"), "%s", bytes);
    if (pair[1] >= 0) check(write(pair[1], "hello", 5) == 5 && read(fd, bytes, 5) == 5 && is(bytes, "hello"), "%s", bytes);
    if (is(what, "inotify")) {
        char event[512];
        close(open("created", O_CREAT | O_WRONLY, 0600));
        check(read(fd, event, sizeof event) > 0, "%s", strerror(errno));
    }
    if (shared) check(is_filled(shared, 4096, 3), "shared memory");
    if (child) check(waitpid(child, &value, 0) == child && WEXITSTATUS(value) == 7, "status %x", value);
    return done();
}
