// Many copies of one image may run at once: each writes nothing but its result.
#include "check.h"

int main(void) {
    int here = 0;
    char *heap = malloc(300000);
    fill(heap, 300000, 2);
    ready();
    wait_go();
    check(is_filled(heap, 300000, 2), "heap");
    printf("stack %d\n", here);
    return done();
}
