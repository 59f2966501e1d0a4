/* Another wall clock for one process, by LD_PRELOAD: the machine's plus an offset that may change at any moment.
 *
 * COVEY_CLOCK_FILE names a file of eight bytes, the offset in nanoseconds (host byte order), mapped and read at every look at the
 * clock. CLOCK_MONOTONIC is left alone, as clock_settime(2) does. A wait until a wall-clock time (cnd_timedwait, which
 * librdkafka uses) behaves as in the kernel: a step back makes it longer, a step ahead ends it. libfaketime does not know that
 * call, so a program with librdkafka in it hangs under a clock that is ahead.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define SLICE (20 * 1000000LL) /* how soon a wait sees that the clock has jumped */

static volatile int64_t *offset;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("COVEY_CLOCK_FILE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) offset = page;
}

static int64_t nanoseconds(const struct timespec *t) { return (int64_t)t->tv_sec * SECOND + t->tv_nsec; }

static struct timespec from_nanoseconds(int64_t ns) {
    struct timespec t = {.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
    return t;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    if (!real_gettime) real_gettime = dlsym(RTLD_NEXT, "clock_gettime"); /* asked before our constructor ran */
    int failed = real_gettime(clock, out);
    if (!failed && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *out = from_nanoseconds(nanoseconds(out) + *offset);
    return failed;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    if (!failed) *out = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *out, int base) { return clock_gettime(CLOCK_REALTIME, out) ? 0 : base; }

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    for (;;) {
        struct timespec wall, steady;
        clock_gettime(CLOCK_REALTIME, &wall);
        clock_gettime(CLOCK_MONOTONIC, &steady);
        int64_t left = nanoseconds(until) - nanoseconds(&wall);
        if (left <= 0) return thrd_timedout;
        steady = from_nanoseconds(nanoseconds(&steady) + (left < SLICE ? left : SLICE));
        /* glibc's C11 types are its POSIX ones under another name */
        int result = pthread_cond_clockwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, CLOCK_MONOTONIC, &steady);
        if (result == 0) return thrd_success;
        if (result != ETIMEDOUT) return thrd_error;
    }
}
