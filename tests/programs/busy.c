// Threads that do nothing but count, each in its own page of the file `counters`, where everybody can see it.
#include "check.h"

enum { THREADS = 4, PAGE = 4096 };
static volatile uint64_t *counters;
static volatile int leave;

static void *count(void *argument) {
    volatile uint64_t *mine = counters + (size_t)argument * (PAGE / 8);
    while (!leave) ++*mine;
    return NULL;
}

int main(void) {
    pthread_t id[THREADS];
    int fd = open("counters", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    need(fd >= 0 && ftruncate(fd, THREADS * PAGE) == 0);
    counters = mmap(NULL, THREADS * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(counters != MAP_FAILED);
    for (size_t i = 0; i < THREADS; i++) need(pthread_create(&id[i], NULL, count, (void *)i) == 0);
    ready();
    wait_go();
    leave = 1;
    for (int i = 0; i < THREADS; i++) check(pthread_join(id[i], NULL) == 0, "join %d", i);
    return done();
}
