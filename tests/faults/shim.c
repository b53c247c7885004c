/* Count every file operation that changes something below one folder, in all threads with
 * ONE counter, and do something at the Nth: die, or fail once or from then on. Or write each
 * of them down, in one order (record.c).
 *
 * Loaded with LD_PRELOAD. Armed from inside the process: fault_arm(folder, at, kind).
 *   kind 0: count only          kind 1: SIGKILL before the operation
 *   kind 2: ENOSPC once         kind 3: ENOSPC from then on
 *   kind 4: EIO once            kind 5: EIO from then on
 *
 * What changes a file through mmap is not seen: that is the -shm alone, which SQLite builds
 * anew after a crash. What changes no content (fchmod, fchown, utimes) is not counted.
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
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "record.h"

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

/* Also the folder itself, whose fsync is an operation. */
static int below_fd(int fd)
{
    char link[64], path[4096];
    if (!folder[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 2);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return below(path) || (strlen(folder) == (size_t)length + 1 && !strncmp(path, folder, length));
}

/* Do the real CALL and write down what it did, as one step for all threads. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define THROUGH(mine, call, note)                                                                 \
    if (!(mine))                                                                                  \
        return call;                                                                              \
    int error = strike();                                                                         \
    if (error) {                                                                                  \
        errno = error;                                                                            \
        return -1;                                                                                \
    }                                                                                             \
    if (!record_on())                                                                             \
        return call;                                                                              \
    record_begin();                                                                               \
    long before = record_before(note);                                                            \
    __typeof__(call) result = call;                                                               \
    int saved = errno;                                                                            \
    if (result >= 0)                                                                              \
        record_end(note, before, result);                                                         \
    record_done();                                                                                \
    errno = saved;                                                                                \
    return result

#define NOTE(...) ((struct note){__VA_ARGS__})

ssize_t write(int fd, const void *data, size_t size)
{
    THROUGH(below_fd(fd), REAL(write)(fd, data, size), NOTE('w', .fd = fd, .data = data));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    THROUGH(below_fd(fd), REAL(pwrite)(fd, data, size, at), NOTE('W', .fd = fd, .at = at, .data = data));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    THROUGH(below_fd(fd), REAL(pwrite64)(fd, data, size, at), NOTE('W', .fd = fd, .at = at, .data = data));
}
int fsync(int fd) { THROUGH(below_fd(fd), REAL(fsync)(fd), NOTE('S', .fd = fd)); }
int fdatasync(int fd) { THROUGH(below_fd(fd), REAL(fdatasync)(fd), NOTE('S', .fd = fd)); }
int ftruncate(int fd, off_t size)
{
    THROUGH(below_fd(fd), REAL(ftruncate)(fd, size), NOTE('T', .fd = fd, .at = size));
}
int ftruncate64(int fd, off64_t size)
{
    THROUGH(below_fd(fd), REAL(ftruncate64)(fd, size), NOTE('T', .fd = fd, .at = size));
}
int unlink(const char *path) { THROUGH(below(path), REAL(unlink)(path), NOTE('U', .path = path)); }
int rename(const char *from, const char *to)
{
    THROUGH(below(to), REAL(rename)(from, to), NOTE('R', .path = from, .other = to));
}
int link(const char *from, const char *to)
{
    THROUGH(below(to), REAL(link)(from, to), NOTE('L', .path = from, .other = to));
}
/* Python's os.link() is this one; its folders are always AT_FDCWD here. */
int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    THROUGH(below(to), REAL(linkat)(from_dir, from, to_dir, to, flags), NOTE('L', .path = from, .other = to));
}
int mkdir(const char *path, mode_t mode)
{
    THROUGH(below(path), REAL(mkdir)(path, mode), NOTE('K', .path = path));
}

/* Whoever copies inside the kernel has to do it with write(), which is seen. */
ssize_t sendfile(int out, int in, off_t *at, size_t size)
{
    if (below_fd(out)) {
        errno = ENOTSOCK;
        return -1;
    }
    return REAL(sendfile)(out, in, at, size);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size)
{
    if (below_fd(out)) {
        errno = ENOTSOCK;
        return -1;
    }
    return REAL(sendfile64)(out, in, at, size);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags)
{
    if (below_fd(out)) {
        errno = EXDEV;
        return -1;
    }
    return REAL(copy_file_range)(in, from, out, to, size, flags);
}

/* A full disk lets a file that is there be opened; set by who fills it for a while. */
int fault_spares_existing = 0;

static int spared(const char *path, int flags)
{
    return fault_spares_existing && !(flags & O_TRUNC) && access(path, F_OK) == 0;
}

/* Only opens that can make a file, or empty one, count. */
static int changes(const char *path, int flags)
{
    return flags & (O_CREAT | O_TRUNC) && below(path) && !spared(path, flags);
}

#define MODE_OF(flags)                                                                            \
    mode_t mode = 0;                                                                              \
    if (flags & O_CREAT) {                                                                        \
        va_list rest;                                                                             \
        va_start(rest, flags);                                                                    \
        mode = va_arg(rest, mode_t);                                                              \
        va_end(rest);                                                                             \
    }

int open(const char *path, int flags, ...)
{
    MODE_OF(flags)
    THROUGH(changes(path, flags), REAL(open)(path, flags, mode), NOTE('C', .path = path, .at = flags));
}
int open64(const char *path, int flags, ...)
{
    MODE_OF(flags)
    THROUGH(changes(path, flags), REAL(open64)(path, flags, mode), NOTE('C', .path = path, .at = flags));
}
