// Runs a command where user namespaces are forbidden, as on machines whose administrator did so: in a user namespace
// with a limit of zero more, and without any capability.
#include <sched.h>
#include "check.h"

static void put(const char *file, const char *text) {
    int fd = open(file, O_WRONLY);
    need(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

int main(int argc, char **argv) {
    char map[64];
    uid_t uid = getuid();
    gid_t gid = getgid();
    need(argc > 1);
    need(uid != 0);
    if (unshare(CLONE_NEWUSER) != 0) execvp(argv[1], argv + 1);
    snprintf(map, sizeof map, "%d %d 1", uid, uid);
    put("/proc/self/uid_map", map);
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%d %d 1", gid, gid);
    put("/proc/self/gid_map", map);
    put("/proc/sys/user/max_user_namespaces", "0");
    need(unshare(CLONE_NEWUSER) == -1);
    execvp(argv[1], argv + 1);
    return 127;
}
