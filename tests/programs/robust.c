// Robust mutexes: held across the restore by a thread that dies afterwards; the next one is told.
#include "check.h"

static pthread_mutex_t first, second;
static volatile int held;

static void *die(void *unused) {
    need(pthread_mutex_lock(&first) == 0 && pthread_mutex_lock(&second) == 0);
    held = 1;
    wait_go();
    return unused;
}

int main(void) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&first, &kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&second, &kind);
    void *head = NULL, *after = NULL;
    size_t length = 0;
    syscall(SYS_get_robust_list, 0, &head, &length);
    pthread_t id;
    need(pthread_create(&id, NULL, die, NULL) == 0);
    while (!held) usleep(1000);
    ready();
    wait_go();
    syscall(SYS_get_robust_list, 0, &after, &length);
    check(after == head, "robust list at %p, was at %p", after, head);
    pthread_join(id, NULL);
    int r = pthread_mutex_lock(&first);
    check(r == EOWNERDEAD, "%s", strerror(r));
    r = pthread_mutex_lock(&second);
    check(r == EOWNERDEAD, "%s", strerror(r));
    check(pthread_mutex_consistent(&first) == 0 && pthread_mutex_unlock(&first) == 0, "repair");
    return done();
}
