#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LOG_LINE_BYTES_MAX  2048
#define LOG_PAIRS_BYTES_MAX 1536
#define LOG_TAG_BYTES_MAX   31

/* The log is the one thing all reactors of a process share: one mutex around the sink, taken per
 * line. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int level_now = LOG_INFO;
static _Atomic int json_now;
static log_sink sink_cb;
static void *sink_arg;
static unsigned long long (*clock_cb)(void *arg);
static void *clock_arg;
static _Thread_local char tag[LOG_TAG_BYTES_MAX + 1];

/* A line under construction; what doesn't fit is cut. */
struct line {
    char text[LOG_LINE_BYTES_MAX];
    size_t len;
};

static void line_put(struct line *l, char c)
{
    if (l->len < sizeof l->text - 1) {
        l->text[l->len++] = c;
    }
}

static void line_puts(struct line *l, const char *text)
{
    for (; *text != '\0'; text++) {
        line_put(l, *text);
    }
}

/* Peers choose some of the bytes that get logged: a control byte must not start a line or move a
 * terminal's cursor. */
static void line_put_clean(struct line *l, const char *text, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f) {
            line_puts(l, "\\x");
            line_put(l, hex[c >> 4]);
            line_put(l, hex[c & 15]);
        } else {
            line_put(l, (char)c);
        }
    }
}

static void line_put_json(struct line *l, const char *text, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    line_put(l, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (l->len + 16 >= sizeof l->text) {
            break; /* keep room for what closes the object */
        }
        if (c == '"' || c == '\\') {
            line_put(l, '\\');
            line_put(l, (char)c);
        } else if (c < 0x20 || c >= 0x7f) {
            /* Bytes outside ASCII are given as Latin-1: always valid JSON, whatever the peer sent.
             */
            line_puts(l, "\\u00");
            line_put(l, hex[c >> 4]);
            line_put(l, hex[c & 15]);
        } else {
            line_put(l, (char)c);
        }
    }
    line_put(l, '"');
}

static void line_put_time(struct line *l, unsigned long long wall_us)
{
    time_t seconds = (time_t)(wall_us / 1000000u);
    struct tm tm;
    char text[64];
    if (gmtime_r(&seconds, &tm) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm) == 0) {
        text[0] = '\0';
    }
    line_puts(l, text);
    (void)snprintf(text, sizeof text, ".%03uZ", (unsigned)(wall_us / 1000u % 1000u));
    line_puts(l, text);
}

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_DEBUG:
        return "DEBUG";
    case LOG_INFO:
        return "INFO";
    case LOG_WARN:
        return "WARN";
    case LOG_ERROR:
    case LOG_OFF:
        break;
    }
    return "ERROR";
}

static void format_text(struct line *l, enum log_level level, const char *area,
                        const char *sentence, const char *pairs)
{
    line_put(l, ' ');
    line_puts(l, level_name(level));
    line_put(l, ' ');
    if (tag[0] != '\0') {
        line_put_clean(l, tag, strlen(tag));
        line_put(l, ' ');
    }
    line_puts(l, area);
    line_puts(l, ": ");
    line_put_clean(l, sentence, strlen(sentence));
    if (pairs[0] != '\0') {
        line_put(l, ' ');
        line_put_clean(l, pairs, strlen(pairs));
    }
}

/* The end of the value that starts at `at`: where the next ` key=` begins. A value may hold blanks.
 */
static const char *value_end(const char *at)
{
    for (const char *p = at; *p != '\0'; p++) {
        if (*p != ' ') {
            continue;
        }
        const char *key = p + 1;
        while ((*key >= 'a' && *key <= 'z') || (*key >= '0' && *key <= '9') || *key == '_') {
            key++;
        }
        if (*key == '=' && key > p + 1) {
            return p;
        }
    }
    return at + strlen(at);
}

static void format_json(struct line *l, enum log_level level, const char *area,
                        const char *sentence, const char *pairs)
{
    line_puts(l, ",\"level\":");
    line_put_json(l, level_name(level), strlen(level_name(level)));
    if (tag[0] != '\0') {
        line_puts(l, ",\"tag\":");
        line_put_json(l, tag, strlen(tag));
    }
    line_puts(l, ",\"area\":");
    line_put_json(l, area, strlen(area));
    line_puts(l, ",\"message\":");
    line_put_json(l, sentence, strlen(sentence));
    while (*pairs != '\0') {
        const char *equals = strchr(pairs, '=');
        if (equals == NULL || l->len + 128 > sizeof l->text) {
            break;
        }
        const char *end = value_end(equals + 1);
        line_put(l, ',');
        line_put_json(l, pairs, (size_t)(equals - pairs));
        line_put(l, ':');
        line_put_json(l, equals + 1, (size_t)(end - equals - 1));
        pairs = *end == ' ' ? end + 1 : end;
    }
    line_put(l, '}');
}

static unsigned long long system_wall_us(void)
{
    struct timespec ts = {0};
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (unsigned long long)ts.tv_sec * 1000000u + (unsigned long long)ts.tv_nsec / 1000u;
}

void log_set_level(enum log_level level)
{
    level_now = (int)level;
}

enum log_level log_level(void)
{
    return (enum log_level)level_now;
}

void log_set_sink(log_sink sink, void *arg)
{
    pthread_mutex_lock(&lock);
    sink_cb = sink;
    sink_arg = arg;
    pthread_mutex_unlock(&lock);
}

void log_set_json(int on)
{
    json_now = on;
}

void log_set_clock(unsigned long long (*wall_us)(void *arg), void *arg)
{
    pthread_mutex_lock(&lock);
    clock_cb = wall_us;
    clock_arg = arg;
    pthread_mutex_unlock(&lock);
}

void log_set_tag(const char *text)
{
    size_t len = text == NULL ? 0 : strnlen(text, LOG_TAG_BYTES_MAX);
    if (len > 0) {
        memcpy(tag, text, len);
    }
    tag[len] = '\0';
}

void log_write(enum log_level level, const char *area, const char *sentence, const char *pairs, ...)
{
    char text[LOG_PAIRS_BYTES_MAX];
    va_list args;
    va_start(args, pairs);
    if (vsnprintf(text, sizeof text, pairs, args) < 0) {
        text[0] = '\0';
    }
    va_end(args);

    struct line l;
    l.len = 0;
    bool json = json_now != 0;
    pthread_mutex_lock(&lock);
    unsigned long long wall_us = clock_cb == NULL ? system_wall_us() : clock_cb(clock_arg);
    if (json) {
        line_puts(&l, "{\"time\":\"");
    }
    line_put_time(&l, wall_us);
    if (json) {
        line_put(&l, '"');
        format_json(&l, level, area, sentence, text);
    } else {
        format_text(&l, level, area, sentence, text);
    }
    l.text[l.len] = '\0';
    if (sink_cb != NULL) {
        sink_cb(sink_arg, level, l.text);
    } else {
        l.text[l.len] =
            '\n'; /* line_put() left room for it; one write, so that lines of processes don't mix */
        (void)fwrite(l.text, 1, l.len + 1, stderr);
        (void)fflush(stderr);
    }
    pthread_mutex_unlock(&lock);
}
