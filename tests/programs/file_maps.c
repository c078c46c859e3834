// Mappings of a file: `private` (changed and unchanged pages, the file's again after MADV_DONTNEED)
// and `shared` (two views of one file, which follow each other and reach the file).
#include "check.h"

enum { PAGES = 64, PAGE = 4096, SIZE = PAGES * PAGE };

int main(int argc, char **argv) {
    need(argc == 2);
    int is_private = is(argv[1], "private");
    int fd = open("mapped", O_RDWR | O_CREAT | O_TRUNC, 0644);
    need(fd >= 0 && ftruncate(fd, SIZE) == 0);
    char *writer = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(writer != MAP_FAILED);
    fill(writer, SIZE, 1);
    int flags = is_private ? MAP_PRIVATE : MAP_SHARED;
    if (is_private) munmap(writer, SIZE);
    char *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, fd, 0);
    char *later = mmap(NULL, SIZE / 2, PROT_READ, MAP_SHARED, fd, SIZE / 2);
    need(map != MAP_FAILED && later != MAP_FAILED);
    close(fd);
    for (int i = 0; i < PAGES; i += 2) fill(map + i * PAGE, PAGE, 1000 + (uint64_t)i);
    ready();
    wait_go();
    for (int i = 0; i < PAGES; i++) {
        uint64_t seed = i % 2 ? 1 + (uint64_t)i * PAGE / 8 : 1000 + (uint64_t)i;
        check(is_filled(map + i * PAGE, PAGE, seed), "page %d", i);
    }
    char byte = 0;
    fd = open("mapped", O_RDONLY);
    if (is_private) {
        check(is_filled(later, SIZE / 2, 1 + SIZE / 16), "the file itself");
        madvise(map, SIZE, MADV_DONTNEED);
        check(is_filled(map, SIZE, 1), "MADV_DONTNEED did not bring the file back");
    } else {
        map[SIZE / 2 + 5] = 'x';
        check(later[5] == 'x', "the other view does not follow");
        check(writer[SIZE / 2 + 5] == 'x', "the first view does not follow");
        need(pread(fd, &byte, 1, SIZE / 2 + 5) == 1);
        check(byte == 'x', "the file does not follow");
    }
    return done();
}
