/* Structured log: a sentence, then key=value pairs. One line a record, to a sink (default: standard
 * error):
 *
 *   2026-11-24T11:15:33.123Z WARN wal: tail torn, truncating segment=3 bytes=4096
 *
 * log_warn("wal", "tail torn, truncating", "segment=%u bytes=%zu", segment, bytes);   "" for no
 * pairs
 *
 * Logged once, where it is handled; lower layers return codes. Nothing per request at info or
 * above. thread: any */
#ifndef CAIRN_BASE_LOG_H
#define CAIRN_BASE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };

/* Gets one complete line without a newline; may be called from any thread, one at a time. */
typedef void (*log_sink)(void *arg, enum log_level level, const char *line);

void log_set_level(enum log_level level); /* default LOG_INFO */
enum log_level log_level(void);
void log_set_sink(log_sink sink, void *arg); /* NULL: standard error */
void log_set_json(int on);                   /* one JSON object a line instead */
/* The clock of the time column, microseconds since 1970; default is the system's. The simulator
 * sets its own. */
void log_set_clock(unsigned long long (*wall_us)(void *arg), void *arg);
/* A tag that stands in every line of this thread from now on (the node's name), or NULL. Copied, at
 * most 31 bytes. */
void log_set_tag(const char *tag);

void log_write(enum log_level level, const char *area, const char *sentence, const char *pairs, ...)
    __attribute__((format(printf, 4, 5)));

#define log_at(level, ...)                                                                         \
    do {                                                                                           \
        if ((level) >= log_level()) {                                                              \
            log_write((level), __VA_ARGS__);                                                       \
        }                                                                                          \
    } while (0)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)

#endif
