/* Offline: what a stopped node's data directory holds. Reads, never changes. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env_uv.h"
#include "cli/cli.h"
#include "replica/consensus.h"
#include "replica/fsm_layout.h"
#include "rpc/message.h"
#include "wal/wal.h"

static_assert(OFFLINE_BYTES_MAX + sizeof "/wal" - 1 <= WAL_DIR_BYTES_MAX,
              "a directory that is taken has a log that can be read");

struct dump {
    struct cli *cli;
    uint64_t records;
};

/* The commands of one entry, as its bytes have them (layout: replica/fsm_layout.h). */
static void print_commands(const struct wal_dump_record *record)
{
    struct cursor c = cursor_of(record->data);
    if (record->type != ENTRY_COMMAND || cursor_u16(&c) != ENTRY_FORMAT) {
        return;
    }
    cursor_u16(&c);
    uint32_t count = cursor_u32(&c);
    cursor_u64(&c);
    for (uint32_t i = 0; i < count && !c.failed; i++) {
        char text[512];
        uint16_t kind = cursor_u16(&c);
        cursor_u16(&c);
        uint32_t length = cursor_u32(&c);
        struct slice body = cursor_bytes(&c, length);
        if (!c.failed) {
            message_print(kind, body, text, sizeof text);
            printf("    %s\n", text);
        }
    }
}

static void print_record(void *arg, const struct wal_dump_record *record)
{
    struct dump *dump = arg;
    const struct cli *cli = dump->cli;
    if ((cli->uid != 0 && record->uid != cli->uid) || record->index < cli->from ||
        (cli->to_given && record->index > cli->to)) {
        return;
    }
    dump->records++;
    if (cli->format == FORMAT_JSON) {
        json_t *line = json_pack("{s:I,s:I,s:s,s:I,s:I,s:I,s:i,s:I}", "segment",
                                 (json_int_t)record->segment, "offset", (json_int_t)record->offset,
                                 "kind", record->kind, "shard", (json_int_t)record->uid, "index",
                                 (json_int_t)record->index, "term", (json_int_t)record->term,
                                 "type", (int)record->type, "bytes", (json_int_t)record->data.len);
        json_dumpf(line, stdout, JSON_COMPACT);
        fputc('\n', stdout);
        json_decref(line);
        return;
    }
    printf("%" PRIu64 ":%08" PRIx64 "  %-10s shard=%" PRIu64 " index=%" PRIu64 " term=%" PRIu64
           " bytes=%zu\n",
           record->segment, record->offset, record->kind, record->uid, record->index, record->term,
           record->data.len);
    if (strcmp(record->kind, "entry") == 0) {
        print_commands(record);
    }
}

int verb_log_dump(struct cli *cli)
{
    struct env *env = NULL;
    struct err_text e = {""};
    char dir[OFFLINE_BYTES_MAX + 8];
    struct dump dump = {cli, 0};
    bool no_index = cli->from_text != NULL && cli->from == UINT64_MAX;
    if (cli->argc != 0 || cli->offline == NULL || no_index) {
        return cli_usage(cli, "--offline DATA_DIR log dump [--shard UID] [--from INDEX] [--to "
                              "INDEX]   (node stopped)");
    }
    (void)snprintf(dir, sizeof dir, "%s/wal", cli->offline);
    int rv = env_uv_open(&env);
    if (rv == 0) {
        rv = wal_dump(env, dir, print_record, &dump, &e);
        if (rv == ERR_NOTFOUND) { /* a directory of the embedded mode */
            (void)snprintf(dir, sizeof dir, "%s/log", cli->offline);
            rv = wal_dump(env, dir, print_record, &dump, &e);
        }
        env_uv_close(env);
    }
    if (rv != 0) {
        return cli_error(cli, rv, "%s", e.text[0] != 0 ? e.text : cairn_strerror(rv));
    }
    fprintf(stderr, "%" PRIu64 " records\n", dump.records);
    return EXIT_OK;
}
