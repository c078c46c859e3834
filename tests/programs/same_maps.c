// The whole address space, mapping by mapping, is as it was: addresses, rights, names, settings.
// What the engine needed in between is gone.
#include "check.h"

enum { MOST = 400 };
typedef struct {
    unsigned long from, to, offset;
    char rights[8], name[256], flags[200];
} map;
static map before[MOST], after[MOST];

static void drop(char *flags, const char *flag) {
    char *at = strstr(flags, flag);
    if (at) memmove(at, at + 3, strlen(at + 3) + 1);
}

// Neighbours that differ in nothing may be one mapping or two; the kernel decides.
static int read_maps(map *into) {
    FILE *f = fopen("/proc/self/smaps", "re");
    char line[1024];
    int n = 0;
    need(f);
    while (fgets(line, sizeof line, f)) {
        map m = {0};
        if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %255[^\n]", &m.from, &m.to, m.rights, &m.offset,
                   m.name) >= 4) {
            need(n < MOST);
            into[n++] = m;
        } else if (strncmp(line, "VmFlags:", 8) == 0) {
            map *last = &into[n - 1], *other = last - 1;
            snprintf(last->flags, sizeof last->flags, "%.190s", line + 9);
            // Soft-dirty and accounted: when it was written, and whether it ever was writable.
            drop(last->flags, " sd");
            drop(last->flags, " ac");
            if (n > 1 && other->to == last->from && strcmp(other->rights, last->rights) == 0 &&
                strcmp(other->name, last->name) == 0 && strcmp(other->flags, last->flags) == 0 &&
                (last->offset == 0 || last->offset == other->offset + (last->from - other->from))) {
                other->to = last->to;
                n--;
            }
        }
    }
    fclose(f);
    return n;
}

int main(void) {
    anon(100000);
    read_maps(before);
    ready();
    int n = read_maps(before);
    wait_go();
    int m = read_maps(after);
    check(m == n, "%d mappings, were %d", m, n);
    for (int i = 0, j = 0; i < n && j < m;) {
        map *a = &before[i], *b = &after[j];
        int same = a->from == b->from && a->to == b->to && strcmp(a->rights, b->rights) == 0 &&
                   strcmp(a->name, b->name) == 0 && strcmp(a->flags, b->flags) == 0 &&
                   a->offset == b->offset;
        check(same, "%lx-%lx %s %lx %s [%s] was %lx-%lx %s %lx %s [%s]", b->from, b->to, b->rights,
              b->offset, b->name, b->flags, a->from, a->to, a->rights, a->offset, a->name, a->flags);
        i += a->from <= b->from;
        j += b->from <= a->from;
    }
    return done();
}
