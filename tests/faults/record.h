/* The recorder: every operation that succeeds, in one order for all threads. */
#include <sys/types.h>

struct note {
    char kind; /* see record.c */
    const char *path, *other;
    int fd;
    long at;
    const void *data;
};

void fault_record(const char *to);
void fault_mark(const char *text);

int record_on(void);
void record_begin(void);
long record_before(struct note note);
void record_end(struct note note, long before, long result);
void record_done(void);
