/* tx, ptr swap, obj rollback: transactions by hand.
 *
 * A transaction that spans several calls of cairnctl lives in a file between them: what it has read
 * (with versions) and what it wants to write. Nothing of it is on the cluster before `tx commit`,
 * so that a file which is thrown away leaves nothing behind. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cairn/tx.h>

#include "cli/cli.h"

#define TX_FILE_FORMAT    1
#define TX_FILE_BYTES_MAX (16u << 20) /* 512 KiB of writes in hex, what was read, and room */

/* ---- the file ---- */

struct tx_file {
    const char *path;
    char heap_name[128];
    cairn_heap *heap;
    cairn_tx *tx;
};

static int no_file(struct cli *cli, const char *path, const char *what)
{
    return errno == ENOENT
               ? cli_error(cli, CAIRN_E_NOTFOUND, "there is no %s", path)
               : cli_error(cli, CAIRN_E_IO, "%s can't be %s: %s", path, what, strerror(errno));
}

/* Replaces it as a whole, readable by its owner alone. Exit code, said already. */
static int file_write(struct cli *cli, const struct tx_file *f)
{
    char *bytes = NULL;
    size_t len = 0;
    char temporary[4096];
    int rv = cairn_tx_save(f->tx, &bytes, &len);
    if (rv != 0) {
        return cli_fail(cli, rv, f->path);
    }
    json_t *root = json_pack("{s:i,s:s,s:s%}", "format", TX_FILE_FORMAT, "heap", f->heap_name,
                             "transaction", bytes, len);
    char *text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    cairn_json_free(bytes);
    if (text == NULL) {
        return cli_error(cli, CAIRN_E_NOMEM, "out of memory");
    }
    (void)snprintf(temporary, sizeof temporary, "%s.%ld", f->path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    bool ok = file != NULL && fputs(text, file) >= 0 && fputc('\n', file) != EOF &&
              fflush(file) == 0 && fsync(fd) == 0;
    if (file != NULL) {
        ok = fclose(file) == 0 && ok;
    }
    ok = ok && rename(temporary, f->path) == 0;
    free(text);
    if (!ok) {
        int code = cli_error(cli, CAIRN_E_IO, "%s can't be written: %s", f->path, strerror(errno));
        unlink(temporary);
        return code;
    }
    return 0;
}

static void file_close(struct tx_file *f)
{
    cairn_tx_abort(f->tx); /* what it was is in the file */
    cairn_heap_close(f->heap);
    memset(f, 0, sizeof *f);
}

/* What is in the file; the two last borrow from *root. Exit code, said already. */
static int file_read(struct cli *cli, struct tx_file *f, json_t **root, const char **bytes,
                     size_t *len)
{
    struct stat st;
    const char *heap = NULL;
    int format = 0;
    *root = NULL;
    if (stat(f->path, &st) != 0) {
        return no_file(cli, f->path, "read");
    }
    if (S_ISREG(st.st_mode) && st.st_size <= (off_t)TX_FILE_BYTES_MAX) {
        *root = json_load_file(f->path, 0, NULL);
    }
    if (*root == NULL ||
        json_unpack(*root, "{s:i,s:s,s:s%}", "format", &format, "heap", &heap, "transaction", bytes,
                    len) != 0 ||
        format != TX_FILE_FORMAT || strlen(heap) >= sizeof f->heap_name) {
        json_decref(*root);
        *root = NULL;
        return cli_error(cli, CAIRN_E_INVAL,
                         "%s is not a transaction as `cairnctl tx begin` writes it", f->path);
    }
    (void)snprintf(f->heap_name, sizeof f->heap_name, "%s", heap);
    return 0;
}

/* Exit code, said already. */
static int file_open(struct cli *cli, const char *path, struct tx_file *f)
{
    json_t *root = NULL;
    const char *bytes = NULL;
    size_t len = 0;
    memset(f, 0, sizeof *f);
    f->path = path;
    int wrong = file_read(cli, f, &root, &bytes, &len);
    if (wrong != 0) {
        return wrong;
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        json_decref(root);
        return cli_exit_of(rv);
    }
    rv = cairn_heap_open(cli->client, f->heap_name, &f->heap);
    if (rv == 0) {
        rv = cairn_tx_load(f->heap, bytes, len, &f->tx);
    }
    json_decref(root);
    if (rv != 0) {
        int code = cli_fail(cli, rv, path);
        file_close(f);
        return code;
    }
    return 0;
}

/* ROOT or POINTER, as the transaction sees it. 0 or CAIRN_E_*, not said. */
static int find(struct tx_file *f, const char *text, cairn_ptr *ptr)
{
    return cairn_ptr_parse(text, ptr) == 0 ? 0 : cairn_tx_root_get(f->tx, text, ptr);
}

/* ---- verbs ---- */

/* --isolation and --at. Exit code, said already. */
static int level(struct cli *cli, cairn_tx_opts *opts)
{
    cairn_tx_opts_init(opts, sizeof *opts);
    if (cli->isolation == NULL || strcmp(cli->isolation, "serializable") == 0) {
        opts->isolation = CAIRN_SERIALIZABLE;
    } else if (strcmp(cli->isolation, "snapshot") == 0) {
        opts->isolation = CAIRN_SNAPSHOT;
    } else if (strcmp(cli->isolation, "read-committed") == 0) {
        opts->isolation = CAIRN_READ_COMMITTED;
    } else {
        return cli_error(cli, CAIRN_E_INVAL,
                         "--isolation: \"%s\" is not serializable, snapshot or read-committed",
                         cli->isolation);
    }
    return cli_version(cli, &opts->read_at);
}

int verb_tx_begin(struct cli *cli)
{
    cairn_tx_opts opts;
    if (cli->argc != 2) {
        return cli_usage(cli, "tx begin HEAP FILE [--isolation LEVEL] [--at VERSION|TIME]");
    }
    int wrong = level(cli, &opts);
    if (wrong != 0) {
        return wrong;
    }
    struct tx_file f = {.path = cli->argv[1]};
    if (strlen(cli->argv[0]) >= sizeof f.heap_name) {
        return cli_error(cli, CAIRN_E_INVAL, "\"%s\" is not the name of a heap", cli->argv[0]);
    }
    (void)snprintf(f.heap_name, sizeof f.heap_name, "%s", cli->argv[0]);
    if (access(f.path, F_OK) == 0) {
        return cli_error(cli, CAIRN_E_EXISTS,
                         "%s exists: commit it, abort it, or take another name", f.path);
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cairn_heap_open(cli->client, f.heap_name, &f.heap);
    if (rv == 0) {
        rv = cairn_tx_begin(f.heap, &opts, &f.tx);
    }
    int code = rv != 0 ? cli_fail(cli, rv, cli->argv[0]) : file_write(cli, &f);
    if (code == 0) {
        char line[4200];
        (void)snprintf(line, sizeof line,
                       "%s: nothing of it happens before `cairnctl tx commit %s`", f.path, f.path);
        cli_answer(cli, json_pack("{s:s,s:o}", "heap", f.heap_name, "file", cli_text(f.path)), NULL,
                   NULL, 0, line);
    }
    file_close(&f);
    return code;
}

int verb_tx_read(struct cli *cli)
{
    struct tx_file f;
    cairn_ptr ptr;
    cairn_object object;
    if (cli->argc != 2) {
        return cli_usage(cli, "tx read FILE ROOT|POINTER [--off N] [--len N]");
    }
    int code = file_open(cli, cli->argv[0], &f);
    if (code != 0) {
        return code;
    }
    int rv = find(&f, cli->argv[1], &ptr);
    rv = rv != 0 ? rv : cairn_tx_stat(f.tx, ptr, &object);
    uint64_t len = 0;
    code = rv == 0 ? cli_range(cli, object.size, &len) : 0;
    if (code != 0) {
        file_close(&f);
        return code;
    }
    uint8_t *bytes = rv == 0 ? malloc(len + 1) : NULL;
    if (rv == 0 && bytes == NULL) {
        rv = CAIRN_E_NOMEM;
    }
    if (rv == 0 && len > 0) {
        rv = cairn_tx_read(f.tx, ptr, cli->offset, bytes, len);
    }
    code = rv != 0 ? cli_fail(cli, rv, cli->argv[1]) : file_write(cli, &f);
    if (code == 0) {
        cli_answer_bytes(cli, ptr, object.version, bytes, len);
    }
    free(bytes);
    file_close(&f);
    return code;
}

int verb_tx_write(struct cli *cli)
{
    struct tx_file f;
    cairn_ptr ptr = CAIRN_NULL;
    void *bytes = NULL;
    size_t len = 0;
    if (cli->argc != 2 || (cli->data == NULL && cli->hex == NULL && cli->file == NULL)) {
        return cli_usage(cli,
                         "tx write FILE ROOT|POINTER [--off N] --data TEXT|--hex HEX|--file PATH");
    }
    int code = cli_payload(cli, &bytes, &len);
    if (code == 0) {
        code = file_open(cli, cli->argv[0], &f);
    }
    if (code != 0) {
        free(bytes);
        return code;
    }
    int rv = find(&f, cli->argv[1], &ptr);
    rv = rv != 0 ? rv : cairn_tx_write(f.tx, ptr, cli->offset, bytes, len);
    free(bytes);
    code = rv != 0 ? cli_fail(cli, rv, cli->argv[1]) : file_write(cli, &f);
    if (code == 0) {
        char line[64];
        (void)snprintf(line, sizeof line, "%zu bytes, when it commits", len);
        cli_answer(cli,
                   json_pack("{s:o,s:I,s:I}", "pointer", cli_ptr(ptr), "offset",
                             (json_int_t)cli->offset, "length", (json_int_t)len),
                   NULL, NULL, 0, line);
    }
    file_close(&f);
    return code;
}

int verb_tx_root_set(struct cli *cli)
{
    struct tx_file f;
    cairn_ptr ptr = CAIRN_NULL;
    if (cli->argc != 3) {
        return cli_usage(cli, "tx root-set FILE NAME POINTER (0: delete the name)");
    }
    if (strcmp(cli->argv[2], "0") != 0 && cairn_ptr_parse(cli->argv[2], &ptr) != 0) {
        return cli_error(cli, CAIRN_E_INVAL, "\"%s\" is not a pointer (2.1.0000000041)",
                         cli->argv[2]);
    }
    int code = file_open(cli, cli->argv[0], &f);
    if (code != 0) {
        return code;
    }
    int rv = cairn_tx_root_set(f.tx, cli->argv[1], ptr);
    code = rv != 0 ? cli_fail(cli, rv, cli->argv[1]) : file_write(cli, &f);
    if (code == 0) {
        cli_answer(cli,
                   json_pack("{s:o,s:o}", "name", cli_text(cli->argv[1]), "pointer", cli_ptr(ptr)),
                   NULL, NULL, 0, "set, when it commits");
    }
    file_close(&f);
    return code;
}

/* The file goes when it has committed. After a conflict it stays, to be looked at: it can never
 * commit any more, since what it has read isn't so any longer. */
int verb_tx_commit(struct cli *cli)
{
    struct tx_file f;
    cairn_tx_id id;
    uint64_t version = 0;
    char text[CAIRN_TX_ID_TEXT_BYTES];
    char line[96];
    if (cli->argc != 1) {
        return cli_usage(cli, "tx commit FILE");
    }
    int code = file_open(cli, cli->argv[0], &f);
    if (code != 0) {
        return code;
    }
    int rv = cairn_tx_id_of(f.tx, &id);
    if (rv == 0) {
        cairn_tx_id_format(&id, text, sizeof text);
        rv = cairn_tx_commit(f.tx, &version);
        f.tx = NULL;
    }
    if (rv == CAIRN_E_INDOUBT) {
        code = cli_error(cli, rv,
                         "%s: nobody could say what became of it (%s): ask `cairnctl tx outcome "
                         "%s`",
                         f.path, cairn_errormsg(), text);
    } else if (rv != 0) {
        code = cli_fail(cli, rv, f.path);
    } else {
        if (unlink(f.path) != 0) {
            cli_warn(cli, "%s can't be removed (%s): don't commit it again", f.path,
                     strerror(errno));
        }
        (void)snprintf(line, sizeof line, "committed, version %" PRIu64, version);
        cli_answer(cli, json_pack("{s:o,s:s}", "version", cli_u64(version), "id", text), NULL, NULL,
                   0, line);
    }
    file_close(&f);
    return code;
}

int verb_tx_outcome(struct cli *cli)
{
    static const char *const states[] = {"unknown", "committed", "aborted"};
    cairn_tx_id id;
    uint32_t state = CAIRN_TX_UNKNOWN;
    uint64_t version = 0;
    char line[96];
    if (cli->argc != 1) {
        return cli_usage(cli, "tx outcome ID");
    }
    if (cairn_tx_id_parse(cli->argv[0], &id) != 0) {
        return cli_error(cli, CAIRN_E_INVAL, "\"%s\" is not the id of a transaction", cli->argv[0]);
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cairn_tx_outcome(cli->client, &id, &state, &version);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    const char *word = state < sizeof states / sizeof states[0] ? states[state] : "?";
    if (state == CAIRN_TX_COMMITTED) {
        (void)snprintf(line, sizeof line, "%s, version %" PRIu64, word, version);
    } else {
        (void)snprintf(line, sizeof line, "%s", word);
    }
    cli_answer(cli, json_pack("{s:s,s:o}", "state", word, "version", cli_u64(version)), NULL, NULL,
               0, line);
    return state == CAIRN_TX_UNKNOWN ? EXIT_FINDINGS : EXIT_OK;
}

/* Removes a file, and so looks first whether it is one of ours. */
int verb_tx_abort(struct cli *cli)
{
    json_t *root = NULL;
    const char *bytes = NULL;
    size_t len = 0;
    if (cli->argc != 1) {
        return cli_usage(cli, "tx abort FILE");
    }
    struct tx_file f = {.path = cli->argv[0]};
    int wrong = file_read(cli, &f, &root, &bytes, &len);
    json_decref(root);
    if (wrong != 0) {
        return wrong;
    }
    if (unlink(f.path) != 0) {
        return no_file(cli, f.path, "removed");
    }
    cli_answer(cli, json_pack("{s:o}", "file", cli_text(cli->argv[0])), NULL, NULL, 0,
               "nothing happened");
    return EXIT_OK;
}

/* ---- ptr swap ---- */

/* POINTER:OFFSET or ROOT:OFFSET. 0 or CAIRN_E_*, not said. */
static int place(cairn_heap *heap, const char *text, cairn_ptr *ptr, uint64_t *offset)
{
    char name[256];
    char *end = NULL;
    const char *colon = strrchr(text, ':');
    if (colon == NULL || colon == text || (size_t)(colon - text) >= sizeof name) {
        return CAIRN_E_INVAL;
    }
    errno = 0;
    *offset = strtoull(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != 0 || errno != 0) {
        return CAIRN_E_INVAL;
    }
    (void)snprintf(name, sizeof name, "%.*s", (int)(colon - text), text);
    return cairn_ptr_parse(name, ptr) == 0 ? 0 : cairn_root_get(heap, name, ptr);
}

int verb_ptr_swap(struct cli *cli)
{
    cairn_heap *heap = NULL;
    cairn_ptr ptr[2];
    uint64_t offset[2];
    if (cli->argc != 3) {
        return cli_usage(cli, "ptr swap HEAP ROOT|POINTER:OFFSET ROOT|POINTER:OFFSET");
    }
    int rv = cli_connect(cli);
    if (rv != 0) {
        return cli_exit_of(rv);
    }
    rv = cairn_heap_open(cli->client, cli->argv[0], &heap);
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    for (int i = 0; i < 2; i++) {
        rv = place(heap, cli->argv[i + 1], &ptr[i], &offset[i]);
        if (rv != 0) {
            cairn_heap_close(heap);
            return rv == CAIRN_E_INVAL
                       ? cli_error(cli, rv, "\"%s\" must be ROOT:OFFSET or POINTER:OFFSET",
                                   cli->argv[i + 1])
                       : cli_fail(cli, rv, cli->argv[i + 1]);
        }
    }
    rv = cairn_ptr_swap(heap, ptr[0], offset[0], ptr[1], offset[1]);
    cairn_heap_close(heap);
    if (rv != 0) {
        return cli_fail(cli, rv, "ptr swap");
    }
    cli_answer(cli, json_pack("{s:[o,o]}", "owners", cli_ptr(ptr[0]), cli_ptr(ptr[1])), NULL, NULL,
               0, "swapped");
    return EXIT_OK;
}

/* ---- obj rollback ---- */

struct rollback {
    cairn_heap *heap;
    cairn_ptr ptr;
    uint64_t to;
    uint64_t bytes; /* written */
};

/* The object gets the bytes back that it had; that nobody changes it meanwhile is what reading its
 * version makes sure. */
static int roll_back(cairn_tx *tx, void *arg)
{
    struct rollback *r = arg;
    cairn_object then;
    cairn_object now;
    int rv = cairn_stat_at(r->heap, r->ptr, r->to, &then);
    rv = rv != 0 ? rv : cairn_tx_stat(tx, r->ptr, &now);
    if (rv != 0) {
        return rv;
    }
    if (then.size != now.size) {
        return CAIRN_E_RANGE;
    }
    uint8_t *bytes = malloc(then.size);
    if (bytes == NULL) {
        return CAIRN_E_NOMEM;
    }
    r->bytes = then.size;
    rv = cairn_read_at(r->heap, r->ptr, r->to, 0, bytes, then.size, NULL);
    rv = rv != 0 ? rv : cairn_tx_write(tx, r->ptr, 0, bytes, then.size);
    free(bytes);
    return rv;
}

int verb_obj_rollback(struct cli *cli)
{
    struct rollback r = {.to = 0};
    if (cli->argc != 1 || cli->at == NULL) {
        return cli_usage(cli, "obj rollback HEAP/ROOT|HEAP/POINTER --at VERSION|TIME");
    }
    int code = cli_version(cli, &r.to);
    if (code == 0) {
        code = cli_object(cli, cli->argv[0], &r.heap, &r.ptr);
    }
    if (code != 0) {
        return code;
    }
    int rv = cairn_tx_run(r.heap, roll_back, &r);
    cairn_heap_close(r.heap);
    if (rv == CAIRN_E_RANGE) {
        return cli_error(cli, rv, "%s had another size then: `obj realloc` it first", cli->argv[0]);
    }
    if (rv != 0) {
        return cli_fail(cli, rv, cli->argv[0]);
    }
    char line[96];
    (void)snprintf(line, sizeof line, "%" PRIu64 " bytes as they were at version %" PRIu64, r.bytes,
                   r.to);
    cli_answer(cli,
               json_pack("{s:o,s:o,s:I}", "pointer", cli_ptr(r.ptr), "to", cli_u64(r.to), "bytes",
                         (json_int_t)r.bytes),
               NULL, NULL, 0, line);
    return EXIT_OK;
}
