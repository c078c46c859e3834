// Where its code, heap and stack lie: randomized in every run, the same after every restore.
#include "check.h"

int main(void) {
    int here;
    printf("addresses %p %p %p\n", (void *)main, malloc(10), (void *)&here);
    ready();
    wait_go();
    printf("addresses %p %p %p\n", (void *)main, (void *)((char *)sbrk(0) - 0), (void *)&here);
    return done();
}
