#include "chaos/record.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

uint64_t record_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void record_open(struct record *r, const char *dir, unsigned process, unsigned thread)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/history-%u-%u", dir, process, thread);
    r->fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    assert(r->fd >= 0);
}

void record_close(struct record *r)
{
    (void)close(r->fd);
    r->fd = -1;
}

static void add(struct record *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(struct record *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(r->line + r->len, sizeof r->line - r->len, format, args);
    va_end(args);
    assert(n > 0);
    r->len += (size_t)n;
    assert(r->len < sizeof r->line);
}

static void put(struct record *r)
{
    add(r, "\n");
    ssize_t n = write(r->fd, r->line, r->len);
    assert(n == (ssize_t)r->len);
    r->len = 0;
}

void record_begin(struct record *r, char level)
{
    add(r, "b %c %" PRIu64, level, record_now_ns());
    put(r);
}

void record_read(struct record *r, uint64_t key, const uint64_t *values, uint64_t count)
{
    add(r, "r %" PRIu64, key);
    for (uint64_t i = 0; i < count; i++) {
        add(r, " %" PRIu64, values[i]);
    }
    put(r);
}

void record_append(struct record *r, uint64_t key, uint64_t value)
{
    add(r, "a %" PRIu64 " %" PRIu64, key, value);
    put(r);
}

void record_end(struct record *r, char outcome)
{
    add(r, "e %c %" PRIu64, outcome, record_now_ns());
    put(r);
}
