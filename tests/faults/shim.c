/* Count every file operation that changes something below one folder, in all threads with
 * ONE counter, and do something at the Nth: die, or fail once or from then on.
 *
 * Loaded with LD_PRELOAD. Armed from inside the process: fault_arm(folder, at, kind).
 *   kind 0: count only          kind 1: SIGKILL before the operation
 *   kind 2: ENOSPC once         kind 3: ENOSPC from then on
 *   kind 4: EIO once            kind 5: EIO from then on
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[4096];
static atomic_long counter;
static long fault_at;
static int fault_kind;

void fault_arm(const char *where, long at, int kind)
{
    strncpy(folder, where, sizeof folder - 1);
    fault_at = at;
    fault_kind = kind;
    atomic_store(&counter, 0);
}

long fault_count(void) { return atomic_load(&counter); }

/* 0: go on; otherwise the errno to fail with. */
static int strike(void)
{
    long now = atomic_fetch_add(&counter, 1) + 1;
    if (fault_kind == 0 || now < fault_at)
        return 0;
    if (fault_kind == 1)
        kill(getpid(), SIGKILL);
    if ((fault_kind == 2 || fault_kind == 4) && now > fault_at)
        return 0;
    return fault_kind <= 3 ? ENOSPC : EIO;
}

static int below(const char *path)
{
    return folder[0] && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int below_fd(int fd)
{
    char link[64], path[4096];
    if (!folder[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return below(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define GUARD(mine)                                                                               \
    if (mine) {                                                                                   \
        int error = strike();                                                                     \
        if (error) {                                                                              \
            errno = error;                                                                        \
            return -1;                                                                            \
        }                                                                                         \
    }

ssize_t write(int fd, const void *data, size_t size)
{
    GUARD(below_fd(fd));
    return REAL(write)(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    GUARD(below_fd(fd));
    return REAL(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    GUARD(below_fd(fd));
    return REAL(pwrite64)(fd, data, size, at);
}
int fsync(int fd)
{
    GUARD(below_fd(fd));
    return REAL(fsync)(fd);
}
int fdatasync(int fd)
{
    GUARD(below_fd(fd));
    return REAL(fdatasync)(fd);
}
int ftruncate(int fd, off_t size)
{
    GUARD(below_fd(fd));
    return REAL(ftruncate)(fd, size);
}
int ftruncate64(int fd, off64_t size)
{
    GUARD(below_fd(fd));
    return REAL(ftruncate64)(fd, size);
}
int unlink(const char *path)
{
    GUARD(below(path));
    return REAL(unlink)(path);
}
int rename(const char *from, const char *to)
{
    GUARD(below(to));
    return REAL(rename)(from, to);
}
int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    GUARD(below(to));
    return REAL(linkat)(from_dir, from, to_dir, to, flags);
}
int link(const char *from, const char *to)
{
    GUARD(below(to));
    return REAL(link)(from, to);
}

/* Only opens that can make a file count. */
int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
        GUARD(below(path));
    }
    return REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
        GUARD(below(path));
    }
    return REAL(open64)(path, flags, mode);
}
