// Holds for moments what cannot be saved: a child process, a file of /proc, a lock.
#include <sys/file.h>
#include "check.h"

static void moment(void) {
    struct timespec t = {0, 1000000};
    nanosleep(&t, NULL);
}

static void child(void) {
    pid_t pid = fork();
    if (pid == 0) {
        moment();
        _exit(7);
    }
    int status = 0;
    check(waitpid(pid, &status, 0) == pid, "the child is lost: %s", strerror(errno));
    check(WIFEXITED(status) && WEXITSTATUS(status) == 7, "%x", status);
}

static void file_of_proc(void) {
    char text[64] = "";
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    moment();
    check(read(fd, text, sizeof text - 1) > 0 && strncmp(text, "passing", 7) == 0, "%s", text);
    close(fd);
}

static void lock(void) {
    int fd = open("locked", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    check(flock(fd, LOCK_EX | LOCK_NB) == 0, "%s", strerror(errno));
    moment();
    check(flock(fd, LOCK_UN) == 0, "%s", strerror(errno));
    close(fd);
}

int main(void) {
    ready();
    int64_t since = now_ms(CLOCK_MONOTONIC);
    while (!may_go()) {
        child();
        file_of_proc();
        lock();
        for (int i = 0; i < 3; i++) moment();
        give_up_after(180, since);
    }
    return done();
}
