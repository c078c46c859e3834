// Three threads in functions with names to be found in a backtrace.
#include "check.h"

static volatile int started;

int __attribute__((noinline)) innermost_function(int depth) {
    started++;
    wait_go();
    return depth + 1;
}

int __attribute__((noinline)) middle_function(int depth) { return innermost_function(depth) + 1; }
int __attribute__((noinline)) worker_function(int depth) { return innermost_function(depth) + 2; }

static void *thread(void *unused) {
    worker_function(1);
    return unused;
}

int main(void) {
    pthread_t id[2];
    for (int i = 0; i < 2; i++) need(pthread_create(&id[i], NULL, thread, NULL) == 0);
    while (started < 2) usleep(1000);
    ready();
    middle_function(2);
    for (int i = 0; i < 2; i++) pthread_join(id[i], NULL);
    return done();
}
