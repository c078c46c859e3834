// Counts while it is moved from machine to machine, and looks at everything that must go on as it was: `traveller MARK [threads=N] [period=MS]
// [memory=MIB] [port=N] [device=PATH] [output=grows|anew] [timers=all]`. Every thread prints `NAME NUMBER HOST MILLISECONDS`; the first also keeps its number in its name
// (seen by `ps`), writes the same lines to the file `trail`, and reads the file `input` in small steps. What is typed: `quit N`, `die N` (by a
// signal), `deaf` (reads nothing more until it is on another machine), anything else is repeated.
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <termios.h>
#include "check.h"

enum { RECORD = 8, MOST_THREADS = 6 };
static volatile sig_atomic_t resized = 1, leave;
static int64_t period = 5;

static void window_changed(int s) {
    (void)s;
    resized = 1;
}

// A move may take some seconds; another machine's uptime is days away.
static int64_t clock_goes_on(int64_t before) {
    int64_t now = now_ms(CLOCK_MONOTONIC);
    check(now >= before && now < before + 100000, "%ld after %ld", now, before);
    return now;
}

static void pause_for(int64_t ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

static void *count(void *name) {
    pid_t tid = gettid();
    int64_t clock = now_ms(CLOCK_MONOTONIC);
    for (unsigned long number = 1; !leave; number++) {
        struct utsname host;
        uname(&host);
        check(gettid() == tid, "%d is now %d", tid, gettid());
        clock = clock_goes_on(clock);
        printf("%s %lu %s %ld\n", (char *)name, number, host.nodename, clock);
        fflush(stdout);
        pause_for(period);
    }
    return NULL;
}

// Record n holds n. Each is read where the last one ended; now and then the file is opened anew, by either path.
static void read_input(int fd, unsigned long number, const char *directory) {
    char record[RECORD + 1] = "", path[4200];
    ssize_t n = read(fd, record, RECORD);
    if (n == 0) {
        need(lseek(fd, 0, SEEK_SET) == 0);
        n = read(fd, record, RECORD);
    }
    off_t at = lseek(fd, 0, SEEK_CUR) / RECORD - 1;
    check(n == RECORD && atol(record) == at, "%ld bytes %s at %ld", (long)n, record, (long)at);
    if (number % 16 != 0) return;
    snprintf(path, sizeof path, "%s/input", directory);
    for (int absolute = 0; absolute < 2; absolute++) {
        int again = open(absolute ? path : "input", O_RDONLY | O_CLOEXEC);
        check(again >= 0, "%s: %s", absolute ? path : "input", strerror(errno));
        check(again < 0 || pread(again, record, RECORD, RECORD * 7) == RECORD, "%s", strerror(errno));
        check(again < 0 || atol(record) == 7, "%s", record);
        if (again >= 0) close(again);
    }
}

// What is typed would be shown between the lines otherwise.
static int echoes(int is_wanted) {
    struct termios t;
    if (!isatty(0)) return 0;
    check(tcgetattr(0, &t) == 0, "%s", strerror(errno));
    if (!is_wanted && (t.c_lflag & ECHO)) {
        t.c_lflag &= ~(tcflag_t)ECHO;
        check(tcsetattr(0, TCSANOW, &t) == 0, "%s", strerror(errno));
    }
    return (t.c_lflag & ECHO) != 0;
}

static void leave_a_note(const char *host) {
    char name[100], text[100] = "";
    snprintf(name, sizeof name, "was-on-%s", host);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0640);
    check(fd >= 0 && dprintf(fd, "here\n") == 5, "%s: %s", name, strerror(errno));
    if (fd >= 0) close(fd);
    slurp(name, text, sizeof text);
    check(strcmp(text, "here\n") == 0, "%s", text);
}

static void obey(char *line, char *deaf_on, const char *host) {
    line[strcspn(line, "\n")] = 0;
    if (strncmp(line, "quit ", 5) == 0) {
        leave = 1 + atoi(line + 5);
    } else if (strncmp(line, "die ", 4) == 0) {
        kill(getpid(), atoi(line + 4));
    } else if (strcmp(line, "deaf") == 0) {
        printf("typed: deaf\n");
        strcpy(deaf_on, host);
    } else {
        printf("typed: %s\n", line);
    }
}

// A file of 8 MiB that grows with every number; or also has another beginning every time.
enum { LARGE = 8 << 20, BEGINNING = 256 << 10, MORE = 4096 };
static char beginning[BEGINNING];

static void write_output(int fd, unsigned long number, int is_anew) {
    off_t end = lseek(fd, 0, SEEK_END);
    check(end == LARGE + (off_t)(number - 1) * MORE, "%ld bytes at %lu", (long)end, number);
    check(pread(fd, beginning, BEGINNING, 0) == BEGINNING, "%s", strerror(errno));
    check(is_filled(beginning, BEGINNING, is_anew ? number - 1 : 0), "another beginning at %lu", number);
    if (is_anew) {
        fill(beginning, BEGINNING, number);
        check(pwrite(fd, beginning, BEGINNING, 0) == BEGINNING, "%s", strerror(errno));
    }
    check(pwrite(fd, beginning, MORE, end) == MORE, "%s", strerror(errno));
}

static int begin_output(void) {
    int fd = open("large", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    need(fd >= 0);
    for (unsigned long i = 0; i < LARGE / BEGINNING; i++) {
        fill(beginning, BEGINNING, i);
        need(write(fd, beginning, BEGINNING) == BEGINNING);
    }
    return fd;
}

static const char *option(char **argv, const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (; *argv; argv++)
        if (strncmp(*argv, name, length) == 0 && (*argv)[length] == '=') return *argv + length + 1;
    return otherwise;
}

static int connected(const char *port) {
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(fd >= 0 && connect(fd, (struct sockaddr *)&peer, sizeof peer) == 0);
    return fd;
}

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

// Timers of all kinds, each of which counts: for the process, for one thread, by a new thread.
enum { KINDS = 3 };
static volatile int ticks[KINDS];

static void on_tick(int s) {
    check(s == SIGRTMIN || gettid() == getpid(), "in thread %d", gettid());
    ticks[s - SIGRTMIN]++;
}

static void on_tick_in_thread(union sigval value) { ticks[value.sival_int]++; }

static void start_timers(void) {
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct itimerspec often = {{0, 50000000}, {0, 50000000}};
    for (int i = 0; i < KINDS; i++) {
        const int notify[KINDS] = {SIGEV_SIGNAL, SIGEV_THREAD_ID, SIGEV_THREAD};
        struct sigevent event = {.sigev_notify = notify[i], .sigev_signo = SIGRTMIN + i};
        event.sigev_value.sival_int = i;
        if (notify[i] == SIGEV_THREAD_ID) event.sigev_notify_thread_id = gettid();
        if (notify[i] == SIGEV_THREAD) event.sigev_notify_function = on_tick_in_thread;
        else sigaction(SIGRTMIN + i, &action, NULL);
        timer_t id;
        need(timer_create(CLOCK_MONOTONIC, &event, &id) == 0);
        need(timer_settime(id, 0, &often, NULL) == 0);
    }
}

static void check_timers(void) {
    for (int i = 0; i < KINDS; i++) {
        int before = ticks[i];
        for (int tries = 0; tries < 500 && ticks[i] < before + 3; tries++) pause_for(10);
        check(ticks[i] >= before + 3, "timer %d went off %d times", i, ticks[i] - before);
    }
}

int main(int argc, char **argv) {
    need(argc >= 2);
    int threads = atoi(option(argv, "threads", "1")), trail, input, peer = -1;
    period = atoi(option(argv, "period", "5"));
    size_t size = (size_t)atoi(option(argv, "memory", "4")) << 20;
    if (*option(argv, "port", "")) peer = connected(option(argv, "port", ""));
    if (*option(argv, "device", "")) need(open(option(argv, "device", ""), O_RDWR | O_CLOEXEC) >= 0);
    need(threads >= 1 && threads <= MOST_THREADS);
    const char *writes = option(argv, "output", "");
    int output = *writes ? begin_output() : -1;
    char *memory = anon(size), directory[4000], line[512], deaf_on[65] = "", seen_on[65] = "";
    fill(memory, size, 1);
    need(getcwd(directory, sizeof directory));
    need((trail = open("trail", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) >= 0);
    need((input = open("input", O_RDONLY | O_CLOEXEC)) >= 0);
    struct sigaction action = {.sa_handler = window_changed, .sa_flags = SA_RESTART};
    sigaction(SIGWINCH, &action, NULL);
    echoes(0);
    int has_timers = *option(argv, "timers", "");
    if (has_timers) start_timers();
    static const char *const names[MOST_THREADS] = {"a", "b", "c", "d", "e", "f"};
    pthread_t id[MOST_THREADS];
    for (int i = 1; i < threads; i++) need(pthread_create(&id[i], NULL, count, (void *)names[i]) == 0);
    pid_t pid = getpid();
    int64_t clock = now_ms(CLOCK_MONOTONIC), boot = now_ms(CLOCK_BOOTTIME), began = clock;
    int has_input = 1;
    size_t have = 0;
    for (unsigned long number = 1; !leave; number++) {
        struct utsname host;
        uname(&host);
        if (strcmp(host.nodename, seen_on) != 0) {
            strcpy(seen_on, host.nodename);
            leave_a_note(host.nodename);
        }
        snprintf(line + have, sizeof line - have, "n%lu", number);
        prctl(PR_SET_NAME, line + have);
        check(getpid() == pid && gettid() == pid, "%d is now %d", pid, getpid());
        clock = clock_goes_on(clock);
        int64_t booted = now_ms(CLOCK_BOOTTIME);
        check(booted >= boot && booted < boot + 100000, "%ld after %ld", booted, boot);
        boot = booted;
        printf("a %lu %s %ld\n", number, host.nodename, clock);
        dprintf(trail, "a %lu %s %ld\n", number, host.nodename, clock);
        read_input(input, number, directory);
        if (output >= 0) write_output(output, number, is(writes, "anew"));
        char byte;
        if (peer >= 0 && recv(peer, &byte, 1, MSG_DONTWAIT) != 1 && errno != EAGAIN) {
            printf("typed: %s\n", strerror(errno));
            close(peer);
            peer = -1;
        }
        if (resized && isatty(1)) {
            struct winsize w = {0};
            resized = 0;
            check(ioctl(1, TIOCGWINSZ, &w) == 0, "%s", strerror(errno));
            printf("window %dx%d\n", w.ws_col, w.ws_row);
        }
        fflush(stdout);
        if (*deaf_on && strcmp(deaf_on, host.nodename) != 0) *deaf_on = 0;
        struct pollfd typed = {.fd = has_input && !*deaf_on ? 0 : -1, .events = POLLIN};
        if (poll(&typed, 1, (int)period) == 1) {
            ssize_t n = read(0, line + have, sizeof line - 1 - have);
            if (n <= 0) has_input = 0;
            have += n > 0 ? (size_t)n : 0;
            line[have] = 0;
            char *end;
            while ((end = memchr(line, '\n', have)) != NULL) {
                char command[512];
                size_t length = (size_t)(end - line) + 1;
                memcpy(command, line, length);
                command[length] = 0;
                obey(command, deaf_on, host.nodename);
                have -= length;
                memmove(line, line + length, have);
            }
            pause_for(1);
        }
        if (number % 16 == 0) check(!echoes(1), "the terminal echoes again");
        if (number % 64 == 0) check(is_filled(memory, size > 1 << 20 ? 1 << 20 : size, 1), "memory has changed");
        if (now_ms(CLOCK_MONOTONIC) - began > 300000) leave = 100;
    }
    if (has_timers) check_timers();
    check(is_filled(memory, size, 1), "memory has changed");
    for (int i = 1; i < threads; i++) check(pthread_join(id[i], NULL) == 0, "thread %d", i);
    done();
    return failures ? 1 : leave - 1;
}
