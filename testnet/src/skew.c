/* The wall clock of one process, off by as many seconds as a file says. It is built where it is needed and put before
 * the C library, so that the program under test is the one that everybody runs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile const long long *off_by;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("SKEW_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof *off_by, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED) off_by = at;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = (int)syscall(SYS_clock_gettime, clock, time);
    if (!failed && clock == CLOCK_REALTIME && off_by) time->tv_sec += *off_by;
    return failed;
}
