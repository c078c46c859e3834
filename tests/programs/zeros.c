// Zeros written over what a private file mapping shows: the file's bytes must not come back. In the program's own
// data, where every page is the executable's, and in a mapped file.
#include "check.h"

enum { SIZE = 65536 };

static unsigned char data[SIZE] = {[0 ... SIZE - 1] = 7};
static unsigned char half[SIZE] = {[0 ... SIZE - 1] = 9};

int main(void) {
    int fd = open("sevens", O_RDWR | O_CREAT | O_TRUNC, 0600);
    need(fd >= 0 && write(fd, data, SIZE) == SIZE && write(fd, data, SIZE) == SIZE);
    unsigned char *map = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    need(map != MAP_FAILED);
    memset(data, 0, SIZE);
    memset(half + SIZE / 2, 0, SIZE / 4);
    memset(map, 0, SIZE);
    mprotect(map, SIZE / 2, PROT_READ);
    ready();
    wait_go();
    check(is_zero(data, SIZE), "the program's data are back");
    for (int i = 0; i < SIZE; i++) {
        int wanted = i >= SIZE / 2 && i < SIZE / 4 * 3 ? 0 : 9;
        if (half[i] != wanted) {
            check(0, "byte %d is %d", i, half[i]);
            break;
        }
    }
    check(is_zero(map, SIZE), "the file's bytes are back");
    check(map[SIZE] == 7 && map[2 * SIZE - 1] == 7, "too many zeros");
    return done();
}
