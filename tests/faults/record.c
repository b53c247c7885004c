/* Write down what a process does to the files below a folder, as one list.
 *
 * An entry is a header of fixed size, a path, another path and the data. A file is its inode
 * number, for it outlives its names; a number that is used again begins with a new 'C'.
 *   C created (path, inode)     W written (inode, at, data)     T cut or grown (inode, at)
 *   S synced (inode)            D folder synced (path)          U unlinked (path)
 *   R renamed (path, other)     L linked (path, other)          K folder made (path)
 *   M a mark: what the process had promised by now (path)
 */
#define _GNU_SOURCE
#include "record.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct header {
    int64_t kind, inode, at, path, other, data;
};

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static int list = -1;

static void put(const void *data, size_t size)
{
    ssize_t (*real)(int, const void *, size_t) =
        (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    while (size) {
        ssize_t done = real(list, data, size);
        if (done <= 0)
            abort();
        data = (const char *)data + done;
        size -= done;
    }
}

static void entry(char kind, long inode, long at, const char *path, const char *other,
                  const void *data, size_t size)
{
    struct header header = {kind, inode, at, path ? strlen(path) : 0, other ? strlen(other) : 0, size};
    put(&header, sizeof header);
    if (path)
        put(path, header.path);
    if (other)
        put(other, header.other);
    if (size)
        put(data, size);
}

/* Begin a new list in the file TO, which must lie in another folder. */
void fault_record(const char *to)
{
    list = *to ? open(to, O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600) : -1;
}

void fault_mark(const char *text)
{
    if (!record_on())
        return;
    record_begin();
    entry('M', 0, 0, text, 0, 0, 0);
    record_done();
}

int record_on(void) { return list >= 0; }
void record_begin(void) { pthread_mutex_lock(&order); }
void record_done(void) { pthread_mutex_unlock(&order); }

/* What is to be known before the call: whether a file is there, where a write will go. */
long record_before(struct note note)
{
    struct stat seen;
    if (note.kind == 'C')
        return stat(note.path, &seen) == 0;
    if (note.kind != 'w')
        return 0;
    if (fcntl(note.fd, F_GETFL) & O_APPEND)
        return fstat(note.fd, &seen) == 0 ? seen.st_size : 0;
    return lseek(note.fd, 0, SEEK_CUR);
}

void record_end(struct note note, long before, long result)
{
    struct stat seen = {0};
    char link[64], path[4096];
    int fd = note.kind == 'C' ? (int)result : note.fd;
    if (strchr("CwWTS", note.kind))
        fstat(fd, &seen);
    if (note.kind == 'C') {
        if (!before)
            entry('C', seen.st_ino, 0, note.path, 0, 0, 0);
        else if (note.at & O_TRUNC)
            entry('T', seen.st_ino, 0, 0, 0, 0, 0);
    } else if (note.kind == 'S' && S_ISDIR(seen.st_mode)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length > 0 ? length : 0] = 0;
        entry('D', 0, 0, path, 0, 0, 0);
    } else if (note.kind == 'w' || note.kind == 'W') {
        entry('W', seen.st_ino, note.kind == 'w' ? before : note.at, 0, 0, note.data, result);
    } else {
        entry(note.kind, seen.st_ino, note.at, note.path, note.other, 0, 0);
    }
}
