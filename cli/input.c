/* What the user gives: bytes, versions and times, and consent. */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int from_hex(struct cli *cli, const char *text, uint8_t **bytes, size_t *len)
{
    size_t digits = strlen(text);
    *bytes = calloc(1, digits / 2 + 1);
    if (*bytes == NULL) {
        return cli_error(cli, CAIRN_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < digits; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0 || digits % 2 != 0) {
            free(*bytes);
            *bytes = NULL;
            return cli_error(cli, CAIRN_E_INVAL, "--hex needs an even number of hex digits");
        }
        (*bytes)[i / 2] = (uint8_t)((*bytes)[i / 2] << 4 | digit);
    }
    *len = digits / 2;
    return 0;
}

static int from_file(struct cli *cli, const char *path, uint8_t **bytes, size_t *len)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    size_t capacity = 1u << 16;
    bool failed = file == NULL; /* or a directory, or half of a file */
    int why = errno;
    *bytes = file == NULL ? NULL : malloc(capacity);
    *len = 0;
    while (*bytes != NULL) {
        size_t n = fread(*bytes + *len, 1, capacity - *len, file);
        *len += n;
        if (n == 0) {
            failed = ferror(file) != 0;
            why = errno;
            break;
        }
        if (*len == capacity) {
            uint8_t *more = *len > CAIRN_OBJECT_BYTES_MAX ? NULL : realloc(*bytes, capacity * 2);
            if (more == NULL) {
                free(*bytes);
                *bytes = NULL;
                break;
            }
            *bytes = more;
            capacity *= 2;
        }
    }
    if (file != NULL && file != stdin) {
        (void)fclose(file);
    }
    if (failed) {
        free(*bytes);
        *bytes = NULL;
        return cli_error(cli, CAIRN_E_INVAL, "%s can't be read: %s", path, strerror(why));
    }
    return *bytes == NULL
               ? cli_error(cli, CAIRN_E_INVAL, "%s is larger than an object may be", path)
               : 0;
}

/* A point in time as the greatest version of its millisecond. */
static uint64_t version_of(uint64_t ms)
{
    return ms << 16 | 0xffff;
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* "Z", "" or "+01:00": how far the clock there is ahead of UTC. */
static bool parse_zone(const char *text, int64_t *ahead_s)
{
    unsigned hours = 0;
    unsigned minutes = 0;
    int end = 0;
    *ahead_s = 0;
    if (*text == 0 || strcmp(text, "Z") == 0) {
        return true;
    }
    if ((*text != '+' && *text != '-') || text[1] < '0' || text[1] > '9' ||
        sscanf(text + 1, "%2u:%2u%n", &hours, &minutes, &end) != 2 || text[1 + end] != 0 ||
        hours > 23 || minutes > 59) {
        return false;
    }
    *ahead_s = (*text == '+' ? 1 : -1) * (int64_t)(hours * 3600 + minutes * 60);
    return true;
}

/* "2026-03-02T09:14:42.050Z", or today at "09:14:42". */
static bool parse_clock(const char *text, uint64_t *ms)
{
    struct tm tm;
    time_t now = time(NULL);
    int64_t ahead_s = 0;
    gmtime_r(&now, &tm);
    const char *rest = strchr(text, 'T') != NULL ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm)
                                                 : strptime(text, "%H:%M:%S", &tm);
    if (rest == NULL) {
        return false;
    }
    uint64_t fraction = 0;
    if (*rest == '.') {
        uint64_t scale = 100;
        for (rest++; *rest >= '0' && *rest <= '9'; rest++) {
            fraction += (uint64_t)(*rest - '0') * scale;
            scale /= 10;
        }
    }
    if (!parse_zone(rest, &ahead_s)) {
        return false;
    }
    int64_t seconds = (int64_t)timegm(&tm) - ahead_s;
    *ms = (uint64_t)seconds * 1000 + fraction;
    return seconds >= 0;
}

static bool parse_time(const char *text, uint64_t *version)
{
    uint64_t ms = 0;
    uint64_t ago = 0;
    uint64_t now = now_ms();
    bool known = true;
    if (strcmp(text, "now") == 0) {
        ms = now;
    } else if (text[0] == '-') {
        known = cli_duration(text + 1, &ago) && ago < now;
        ms = now - ago;
    } else {
        known = parse_clock(text, &ms);
    }
    *version = known ? version_of(ms) : 0;
    return known;
}

int cli_version(struct cli *cli, uint64_t *version)
{
    char *end = NULL;
    *version = 0;
    if (cli->at == NULL) {
        return 0;
    }
    if (parse_time(cli->at + (cli->at[0] == '@'), version)) {
        return 0;
    }
    errno = 0;
    *version = strtoull(cli->at, &end, 10);
    if (!isdigit((unsigned char)cli->at[0]) || *end != 0 || *version == 0 || errno != 0) {
        return cli_error(cli, CAIRN_E_INVAL,
                         "--at: \"%s\" is neither a version nor a time: 2026-03-02T09:14:42Z, "
                         "09:14:42.050 (today, UTC), -10s or @now",
                         cli->at);
    }
    return 0;
}

int cli_payload(struct cli *cli, void **bytes, size_t *len)
{
    *bytes = NULL;
    *len = 0;
    if ((cli->data != NULL) + (cli->hex != NULL) + (cli->file != NULL) > 1) {
        return cli_error(cli, CAIRN_E_INVAL, "give one of --data, --hex and --file");
    }
    if (cli->hex != NULL) {
        return from_hex(cli, cli->hex, (uint8_t **)bytes, len);
    }
    if (cli->file != NULL) {
        return from_file(cli, cli->file, (uint8_t **)bytes, len);
    }
    if (cli->data != NULL) {
        *bytes = strdup(cli->data);
        *len = strlen(cli->data);
        return *bytes == NULL ? cli_error(cli, CAIRN_E_NOMEM, "out of memory") : 0;
    }
    return 0;
}

bool cli_confirm(struct cli *cli, const char *question)
{
    if (cli->yes) {
        return true;
    }
    if (!isatty(STDIN_FILENO)) {
        fputs("cairnctl: ", stderr);
        cli_print_plain(stderr, question);
        fputs(" Give --yes to do it.\n", stderr);
        return false;
    }
    cli_print_plain(stderr, question);
    fputs(" [y/N] ", stderr);
    char line[16] = "";
    bool yes = fgets(line, sizeof line, stdin) != NULL && (line[0] == 'y' || line[0] == 'Y');
    cli_restart(cli);
    return yes;
}
