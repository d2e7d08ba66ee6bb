/* obj, ptr: single objects, by HEAP/ROOT or HEAP/POINTER. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

int verb_obj_alloc(struct cli *cli)
{
    cairn_heap *heap = NULL;
    cairn_ptr ptr = CAIRN_NULL;
    void *bytes = NULL;
    size_t len = 0;
    if (cli->argc != 1) {
        return cli_usage(
            cli,
            "obj alloc HEAP [--size BYTES] [--type NAME|N] [--data TEXT|--hex HEX|--file PATH]");
    }
    int code = cli_payload(cli, &bytes, &len);
    if (code != 0) {
        return code;
    }
    uint64_t size = cli->size_given ? cli->size : len;
    code = cli_take_type(cli, cli->argv[0]);
    int rv = code == 0 ? cli_connect(cli) : 0;
    if (code != 0 || rv != 0) {
        free(bytes);
        return code != 0 ? code : cli_exit_of(rv);
    }
    rv = cairn_heap_open(cli->client, cli->argv[0], &heap);
    const char *what = rv == 0 ? "obj alloc" : cli->argv[0];
    if (rv == 0) {
        size_t first = len < CAIRN_WRITE_BYTES_MAX ? len : CAIRN_WRITE_BYTES_MAX;
        rv = cairn_alloc_init(heap, size, cli->type, bytes, first, &ptr);
        for (size_t at = first; rv == 0 && at < len; at += CAIRN_WRITE_BYTES_MAX) {
            size_t n = len - at < CAIRN_WRITE_BYTES_MAX ? len - at : CAIRN_WRITE_BYTES_MAX;
            rv = cairn_write(heap, ptr, at, (uint8_t *)bytes + at, n);
        }
    }
    free(bytes);
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, what);
    }
    char text[CAIRN_PTR_TEXT_BYTES];
    cairn_ptr_format(ptr, text, sizeof text);
    cli_answer(cli,
               json_pack("{s:o,s:I,s:I}", "pointer", cli_ptr(ptr), "size", (json_int_t)size, "type",
                         (json_int_t)cli->type),
               NULL, NULL, 0, text);
    return EXIT_OK;
}

static void print_dump(const uint8_t *bytes, size_t len, uint64_t offset)
{
    for (size_t at = 0; at < len; at += 16) {
        printf("%08" PRIx64 " ", offset + at);
        for (size_t i = 0; i < 16; i++) {
            if (at + i < len) {
                printf(" %02x", bytes[at + i]);
            } else {
                printf("   ");
            }
        }
        printf("  ");
        for (size_t i = 0; i < 16 && at + i < len; i++) {
            putchar(isprint(bytes[at + i]) ? bytes[at + i] : '.');
        }
        putchar('\n');
    }
}

void cli_answer_bytes(struct cli *cli, cairn_ptr ptr, uint64_t version, const uint8_t *bytes,
                      size_t len)
{
    if (cli->format == FORMAT_TABLE) {
        print_dump(bytes, len, cli->offset);
        return;
    }
    char *hex = malloc(len * 2 + 1);
    for (size_t i = 0; hex != NULL && i < len; i++) {
        (void)snprintf(hex + i * 2, 3, "%02x", bytes[i]);
    }
    if (hex != NULL) {
        hex[len * 2] = 0;
    }
    cli_answer(cli,
               json_pack("{s:o,s:I,s:I,s:o,s:s}", "pointer", cli_ptr(ptr), "offset",
                         (json_int_t)cli->offset, "length", (json_int_t)len, "version",
                         cli_u64(version), "hex", hex == NULL ? "" : hex),
               NULL, NULL, 0, NULL);
    free(hex);
}

int verb_obj_read(struct cli *cli)
{
    cairn_heap *heap;
    cairn_ptr ptr;
    cairn_object object;
    uint64_t version = 0;
    uint64_t at = 0;
    if (cli->argc != 1) {
        return cli_usage(cli, "obj read HEAP/ROOT|HEAP/POINTER [--off N] [--len N] [--file PATH] "
                              "[--at VERSION|TIME]");
    }
    if (cli->format == FORMAT_JSON && cli->file != NULL && strcmp(cli->file, "-") == 0) {
        return cli_error(cli, CAIRN_E_INVAL,
                         "standard output takes the bytes or the JSON: give one of --file - and -o "
                         "json");
    }
    int code = cli_version(cli, &at);
    if (code == 0) {
        code = cli_object_at(cli, cli->argv[0], at, &heap, &ptr);
    }
    if (code != 0) {
        return code;
    }
    int rv = cairn_stat_at(heap, ptr, at, &object);
    uint64_t len = 0;
    code = rv == 0 ? cli_range(cli, object.size, &len) : 0;
    if (code != 0) {
        cairn_heap_close(heap);
        return code;
    }
    uint8_t *bytes = rv == 0 ? malloc(len + 1) : NULL;
    if (rv == 0 && bytes == NULL) {
        rv = CAIRN_E_NOMEM;
    }
    if (rv == 0 && len > 0) {
        rv = cairn_read_at(heap, ptr, at, cli->offset, bytes, len, &version);
    }
    cairn_heap_close(heap);
    if (rv != 0) {
        free(bytes);
        return cli_fail(cli, rv, cli->argv[0]);
    }
    if (cli->file != NULL) {
        FILE *file = strcmp(cli->file, "-") == 0 ? stdout : fopen(cli->file, "wb");
        bool ok = file != NULL && fwrite(bytes, 1, len, file) == len && fflush(file) == 0;
        if (file != NULL && file != stdout) {
            ok = fclose(file) == 0 && ok;
        }
        free(bytes);
        if (!ok) {
            return cli_error(cli, CAIRN_E_IO, "%s can't be written", cli->file);
        }
        if (cli->format == FORMAT_JSON) {
            cli_answer(cli,
                       json_pack("{s:o,s:I,s:I,s:o,s:o}", "pointer", cli_ptr(ptr), "offset",
                                 (json_int_t)cli->offset, "length", (json_int_t)len, "version",
                                 cli_u64(version), "file", cli_text(cli->file)),
                       NULL, NULL, 0, NULL);
        }
        return EXIT_OK;
    }
    cli_answer_bytes(cli, ptr, version, bytes, len);
    free(bytes);
    return EXIT_OK;
}

int verb_obj_write(struct cli *cli)
{
    cairn_heap *heap;
    cairn_ptr ptr;
    void *bytes = NULL;
    size_t len = 0;
    if (cli->argc != 1 || (cli->data == NULL && cli->hex == NULL && cli->file == NULL)) {
        return cli_usage(
            cli, "obj write HEAP/ROOT|HEAP/POINTER [--off N] --data TEXT|--hex HEX|--file PATH");
    }
    int code = cli_payload(cli, &bytes, &len);
    if (code == 0 && len == 0) {
        code = cli_error(cli, CAIRN_E_INVAL, "%s: there are no bytes to write", cli->argv[0]);
    }
    if (code == 0) {
        code = cli_object(cli, cli->argv[0], &heap, &ptr);
    }
    if (code != 0) {
        free(bytes);
        return code;
    }
    if (len > CAIRN_WRITE_BYTES_MAX) {
        cli_warn(cli, "%zu bytes are written in pieces of %u, each atomic for itself", len,
                 CAIRN_WRITE_BYTES_MAX);
    }
    int rv = 0;
    for (size_t at = 0; rv == 0 && at < len; at += CAIRN_WRITE_BYTES_MAX) {
        size_t n = len - at < CAIRN_WRITE_BYTES_MAX ? len - at : CAIRN_WRITE_BYTES_MAX;
        rv = cairn_write(heap, ptr, cli->offset + at, (uint8_t *)bytes + at, n);
    }
    free(bytes);
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    char line[64];
    (void)snprintf(line, sizeof line, "%zu bytes written", len);
    cli_answer(cli,
               json_pack("{s:o,s:I,s:I}", "pointer", cli_ptr(ptr), "offset",
                         (json_int_t)cli->offset, "length", (json_int_t)len),
               NULL, NULL, 0, line);
    return EXIT_OK;
}

int verb_obj_free(struct cli *cli)
{
    cairn_heap *heap;
    cairn_ptr ptr;
    char question[160];
    if (cli->argc != 1) {
        return cli_usage(cli, "obj free HEAP/ROOT|HEAP/POINTER [--yes] [--dry-run]");
    }
    int code = cli_object(cli, cli->argv[0], &heap, &ptr);
    if (code != 0) {
        return code;
    }
    cairn_object object;
    int rv = cairn_stat(heap, ptr, &object);
    if (rv == 0 && !cli->dry_run) {
        (void)snprintf(question, sizeof question,
                       "Object %.60s of %" PRIu64
                       " bytes will be gone; pointers to it become stale.",
                       cli->argv[0], object.size);
        rv = cli_confirm(cli, question) ? cairn_free(heap, ptr) : CAIRN_E_CANCELED;
    }
    cairn_heap_close(heap);
    if (rv != 0) {
        return rv == CAIRN_E_CANCELED ? cli_error(cli, rv, "not freed")
                                      : cli_fail(cli, rv, cli->argv[0]);
    }
    cli_answer(cli, json_pack("{s:o,s:b}", "pointer", cli_ptr(ptr), "freed", !cli->dry_run), NULL,
               NULL, 0, cli->dry_run ? "would be freed" : "freed");
    return EXIT_OK;
}

int verb_obj_stat(struct cli *cli)
{
    cairn_heap *heap;
    cairn_ptr ptr;
    cairn_object object;
    char line[160];
    char text[CAIRN_PTR_TEXT_BYTES];
    uint64_t at = 0;
    if (cli->argc != 1) {
        return cli_usage(cli, "obj stat HEAP/ROOT|HEAP/POINTER [--at VERSION|TIME]");
    }
    int code = cli_version(cli, &at);
    if (code == 0) {
        code = cli_object_at(cli, cli->argv[0], at, &heap, &ptr);
    }
    if (code != 0) {
        return code;
    }
    int rv = cairn_stat_at(heap, ptr, at, &object);
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    cairn_ptr_format(ptr, text, sizeof text);
    (void)snprintf(line, sizeof line, "pointer %s   size %" PRIu64 "   type %u   version %" PRIu64,
                   text, object.size, object.type, object.version);
    cli_answer(cli,
               json_pack("{s:s,s:I,s:I,s:o}", "pointer", text, "size", (json_int_t)object.size,
                         "type", (json_int_t)object.type, "version", cli_u64(object.version)),
               NULL, NULL, 0, line);
    return EXIT_OK;
}

int verb_obj_realloc(struct cli *cli)
{
    cairn_heap *heap;
    cairn_ptr ptr;
    char line[96];
    char *end = NULL;
    if (cli->argc != 2) {
        return cli_usage(cli, "obj realloc HEAP/ROOT|HEAP/POINTER BYTES");
    }
    uint64_t size = strtoull(cli->argv[1], &end, 10);
    if (end == cli->argv[1] || *end != 0 || cli->argv[1][0] == '-') {
        return cli_error(cli, CAIRN_E_INVAL, "\"%s\" is no number of bytes", cli->argv[1]);
    }
    int code = cli_object(cli, cli->argv[0], &heap, &ptr);
    if (code != 0) {
        return code;
    }
    int rv = cairn_realloc(heap, ptr, size);
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    (void)snprintf(line, sizeof line, "%" PRIu64 " bytes; the pointer is the same", size);
    cli_answer(cli, json_pack("{s:o,s:I}", "pointer", cli_ptr(ptr), "size", (json_int_t)size), NULL,
               NULL, 0, line);
    return EXIT_OK;
}

/* 2026-03-02T09:14:42.050Z, as --at takes it. */
json_t *cli_time(uint64_t version)
{
    char text[40];
    char day[32];
    struct tm tm;
    uint64_t ms = version >> 16;
    time_t seconds = (time_t)(ms / 1000);
    gmtime_r(&seconds, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(text, sizeof text, "%s.%03uZ", day, (unsigned)(ms % 1000));
    return json_string(text);
}

struct changes {
    json_t *rows;
    uint64_t limit; /* 0: none */
};

static int add_change(void *arg, const cairn_change *change)
{
    struct changes *changes = arg;
    static const char *const kinds[] = {"(older)", "write", "resize", "birth", "free"};
    char what[64] = "";
    if (change->kind == CAIRN_CHANGE_WRITE) {
        (void)snprintf(what, sizeof what, "%u bytes at %" PRIu64, change->len, change->offset);
    }
    json_array_append_new(
        changes->rows,
        json_pack("{s:s,s:o,s:o,s:o,s:I,s:I,s:I,s:s}", "kind",
                  change->kind < sizeof kinds / sizeof kinds[0] ? kinds[change->kind] : "?",
                  "version", cli_u64(change->version), "time", cli_time(change->version), "before",
                  cli_u64(change->before), "size", (json_int_t)change->size, "offset",
                  (json_int_t)change->offset, "length", (json_int_t)change->len, "what", what));
    return json_array_size(changes->rows) == changes->limit;
}

int verb_obj_history(struct cli *cli)
{
    static const struct cli_column columns[] = {{"VERSION", "version", true},
                                                {"TIME", "time", false},
                                                {"CHANGE", "kind", false},
                                                {"SIZE", "size", true},
                                                {"WHAT", "what", false}};
    cairn_heap *heap;
    cairn_ptr ptr;
    if (cli->argc != 1) {
        return cli_usage(cli, "obj history HEAP/ROOT|HEAP/POINTER [--limit N]");
    }
    int code = cli_object(cli, cli->argv[0], &heap, &ptr);
    if (code != 0) {
        return code;
    }
    struct changes changes = {.rows = json_array(), .limit = cli->limit};
    int rv = cairn_history(heap, ptr, add_change, &changes);
    cairn_heap_close(heap);
    if (rv != 0) {
        json_decref(changes.rows);
        return cli_fail(cli, rv, cli->argv[0]);
    }
    cli_answer(cli, json_pack("{s:o,s:o}", "pointer", cli_ptr(ptr), "changes", changes.rows),
               changes.rows, columns, sizeof columns / sizeof columns[0], NULL);
    return EXIT_OK;
}

int verb_ptr_decode(struct cli *cli)
{
    cairn_ptr ptr;
    char text[CAIRN_PTR_TEXT_BYTES];
    char line[160];
    char *end = NULL;
    if (cli->argc != 1) {
        return cli_usage(cli, "ptr decode POINTER|WORD");
    }
    if (cairn_ptr_parse(cli->argv[0], &ptr) != 0) {
        errno = 0;
        ptr.word = strtoull(cli->argv[0], &end, 0);
        if (!isdigit((unsigned char)cli->argv[0][0]) || *end != 0 || errno != 0) {
            return cli_error(cli, CAIRN_E_INVAL,
                             "\"%s\" is neither a pointer (2.1.0000000041) nor its 64-bit word",
                             cli->argv[0]);
        }
    }
    cairn_ptr_format(ptr, text, sizeof text);
    uint32_t shard = (uint32_t)(ptr.word >> 52);
    uint32_t generation = (uint32_t)(ptr.word >> 38) & 0x3fff;
    uint64_t slot = ptr.word & ((1ull << 38) - 1);
    (void)snprintf(
        line, sizeof line,
        "pointer %s   word 0x%016" PRIx64 "   shard %u   generation %u   slot %" PRIu64 "%s", text,
        ptr.word, shard, generation, slot, cairn_ptr_is_null(ptr) ? "   (null)" : "");
    cli_answer(cli,
               json_pack("{s:s,s:o,s:i,s:i,s:o,s:b}", "pointer", text, "word", cli_u64(ptr.word),
                         "shard", (int)shard, "generation", (int)generation, "slot", cli_u64(slot),
                         "null", cairn_ptr_is_null(ptr)),
               NULL, NULL, 0, line);
    return EXIT_OK;
}
