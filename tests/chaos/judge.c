/* Judges what the processes of lists.c recorded: serializable ones strictly, snapshots as
 * snapshots.
 *
 *   judge DIR            prints what was found, and as JSON how much there was
 *   judge DIR DAMAGE     the same of a history that is falsified first: one of
 *                          lost      nobody ever sees a certain committed append
 *                          aborted   a transaction whose append others saw had "no effect"
 *                          swapped   two values of a list that was read change places
 *                          stale     a list that was read lacks what had been committed before
 *                          torn      a list that was read shows half of a transaction
 *
 * Exit 0: nothing that isn't allowed; 1: something; 3: too little to say so. */
#include <dirent.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "chaos/record.h"
#include "history/check.h"
#include "history/history.h"

enum damage { DAMAGE_NONE, DAMAGE_LOST, DAMAGE_ABORTED, DAMAGE_SWAPPED, DAMAGE_STALE, DAMAGE_TORN };
static const char *const damages[] = {"", "lost", "aborted", "swapped", "stale", "torn"};
#define DAMAGES (sizeof damages / sizeof damages[0])

static struct txn_history history;
static uint64_t processes, unfinished;

/* ---- reading what was recorded ---- */

static uint32_t begin(char *rest, uint32_t process)
{
    char level = 0;
    uint64_t now = 0;
    int n = sscanf(rest, " %c %" SCNu64, &level, &now);
    assert(n == 2);
    uint32_t id =
        txn_history_begin(&history, process, level == 'i' ? TXN_SNAPSHOT : TXN_SERIALIZABLE, now);
    if (level == 'o') {
        txn_history_at_older_version(&history, id);
    }
    return id;
}

static void end(char *rest, uint32_t id)
{
    char outcome = 0;
    uint64_t now = 0;
    int n = sscanf(rest, " %c %" SCNu64, &outcome, &now);
    assert(n == 2);
    txn_history_end(&history, id,
                    outcome == 'c'   ? TXN_COMMITTED
                    : outcome == 'a' ? TXN_ABORTED
                                     : TXN_UNKNOWN,
                    now);
}

static void operation(char kind, char *rest, uint32_t id)
{
    uint64_t numbers[1 + RECORD_VALUES_MAX];
    uint32_t count = 0;
    while (*rest == ' ') {
        assert(count <= RECORD_VALUES_MAX);
        numbers[count++] = strtoull(rest, &rest, 10);
    }
    assert(count >= 1);
    if (kind == 'r') {
        (void)txn_history_read(&history, id, numbers[0], numbers + 1, count - 1);
    } else {
        assert(kind == 'a' && count == 2);
        (void)txn_history_append(&history, id, numbers[0], numbers[1]);
    }
}

/* A last line without its end is one that a process died in. */
static void load_file(const char *path, uint32_t process)
{
    char line[RECORD_LINE_MAX];
    uint32_t id = TXN_NONE;
    FILE *f = fopen(path, "r");
    assert(f != NULL);
    while (fgets(line, sizeof line, f) != NULL && line[strlen(line) - 1] == '\n') {
        line[strlen(line) - 1] = 0;
        if (line[0] == 'b') {
            assert(id == TXN_NONE);
            id = begin(line + 1, process);
        } else if (line[0] == 'e') {
            end(line + 1, id);
            id = TXN_NONE;
        } else {
            operation(line[0], line + 1, id);
        }
    }
    unfinished += id != TXN_NONE ? 1 : 0;
    (void)fclose(f);
}

static int load(const char *name)
{
    DIR *dir = opendir(name);
    struct dirent *entry;
    if (dir == NULL) {
        perror(name);
        return -1;
    }
    while ((entry = readdir(dir)) != NULL) {
        char path[512];
        if (strncmp(entry->d_name, "history-", 8) == 0) {
            (void)snprintf(path, sizeof path, "%s/%s", name, entry->d_name);
            load_file(path, (uint32_t)processes++);
        }
    }
    (void)closedir(dir);
    return 0;
}

/* ---- falsifying it ---- */

static struct txn_op *next_op(const struct txn *t, const struct txn_op *op)
{
    uint32_t at = op == NULL ? t->first_op : op->next;
    return at == TXN_NONE ? NULL : &history.ops[at];
}

static bool shows(const struct txn_op *op, uint64_t key, uint64_t value, uint32_t *where)
{
    for (uint32_t i = 0; op->is_read && op->key == key && i < op->count; i++) {
        if (history.values[op->value + i] == value) {
            *where = i;
            return true;
        }
    }
    return false;
}

static void cut(struct txn_op *op, uint32_t at)
{
    uint64_t *values = history.values + op->value;
    memmove(values + at, values + at + 1, (op->count - at - 1) * sizeof *values);
    op->count--;
}

static bool appends(const struct txn *t, uint64_t key)
{
    for (struct txn_op *op = next_op(t, NULL); op != NULL; op = next_op(t, op)) {
        if (!op->is_read && op->key == key) {
            return true;
        }
    }
    return false;
}

/* A committed append, in the middle of the history, that other committed transactions read. */
static struct txn_op *victim(uint32_t *owner)
{
    for (uint32_t i = history.txn_count / 2; i < history.txn_count; i++) {
        const struct txn *t = &history.txns[i];
        for (struct txn_op *op = next_op(t, NULL); op != NULL; op = next_op(t, op)) {
            if (t->status != TXN_COMMITTED || op->is_read) {
                continue;
            }
            for (uint32_t k = 0; k < history.txn_count; k++) {
                uint32_t where;
                const struct txn *reader = &history.txns[k];
                bool later = reader->status == TXN_COMMITTED && reader->start > t->end &&
                             reader->isolation == TXN_SERIALIZABLE && !reader->at_older_version &&
                             !appends(reader, op->key);
                for (struct txn_op *r = later ? next_op(reader, NULL) : NULL; r != NULL;
                     r = next_op(reader, r)) {
                    if (shows(r, op->key, op->value, &where)) {
                        *owner = i;
                        return op;
                    }
                }
            }
        }
    }
    return NULL;
}

/* Of every transaction that saw it, or of one that only read it later: the value is taken out. */
static void hide(const struct txn *by, const struct txn_op *append, bool everywhere)
{
    for (uint32_t i = 0; i < history.txn_count; i++) {
        const struct txn *t = &history.txns[i];
        bool fit = everywhere || (t->status == TXN_COMMITTED && t->start > by->end &&
                                  t->isolation == TXN_SERIALIZABLE && !t->at_older_version &&
                                  !appends(t, append->key));
        for (struct txn_op *op = fit ? next_op(t, NULL) : NULL; op != NULL; op = next_op(t, op)) {
            uint32_t where;
            if (t == by || !shows(op, append->key, append->value, &where)) {
                continue;
            }
            if (everywhere) {
                cut(op, where);
            } else {
                op->count = where; /* as it was before */
                return;
            }
        }
    }
}

static bool swap(void)
{
    for (uint32_t i = history.txn_count / 2; i < history.txn_count; i++) {
        const struct txn *t = &history.txns[i];
        for (struct txn_op *op = next_op(t, NULL); op != NULL; op = next_op(t, op)) {
            if (t->status == TXN_COMMITTED && op->is_read && op->count >= 2) {
                uint64_t *values = history.values + op->value;
                uint64_t first = values[0];
                values[0] = values[1];
                values[1] = first;
                return true;
            }
        }
    }
    return false;
}

/* Somebody saw both appends of a transaction; one of them is taken out of what it saw. */
static bool tear(void)
{
    for (uint32_t i = 0; i < history.txn_count; i++) {
        const struct txn *t = &history.txns[i];
        struct txn_op *seen = NULL;
        for (uint32_t w = 0; t->status == TXN_COMMITTED && w < history.txn_count; w++) {
            uint32_t both = 0, last = 0;
            for (struct txn_op *a = next_op(&history.txns[w], NULL); w != i && a != NULL;
                 a = next_op(&history.txns[w], a)) {
                for (struct txn_op *r = next_op(t, NULL); !a->is_read && r != NULL;
                     r = next_op(t, r)) {
                    uint32_t where;
                    if (shows(r, a->key, a->value, &where) && !appends(t, a->key)) {
                        both++;
                        seen = r;
                        last = where;
                    }
                }
            }
            if (both >= 2) {
                seen->count = last;
                return true;
            }
        }
    }
    return false;
}

static bool falsify(enum damage damage)
{
    uint32_t owner = 0;
    if (damage == DAMAGE_SWAPPED) {
        return swap();
    }
    if (damage == DAMAGE_TORN) {
        return tear();
    }
    struct txn_op *op = victim(&owner);
    if (op == NULL) {
        return false;
    }
    if (damage == DAMAGE_ABORTED) {
        history.txns[owner].status = TXN_ABORTED;
    } else {
        hide(&history.txns[owner], op, damage == DAMAGE_LOST);
    }
    return true;
}

/* ---- the verdict ---- */

static void count_by(enum txn_isolation level, bool older, uint64_t by_status[3])
{
    by_status[0] = by_status[1] = by_status[2] = 0;
    for (uint32_t i = 0; i < history.txn_count; i++) {
        const struct txn *t = &history.txns[i];
        if (t->isolation == level && t->at_older_version == older) {
            by_status[t->status]++;
        }
    }
}

int main(int argc, char **argv)
{
    static struct txn_verdict v;
    enum damage damage = DAMAGE_NONE;
    uint64_t now[3], older[3], snapshot[3];
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: judge DIR [DAMAGE]\n");
        return 2;
    }
    for (unsigned i = 1; argc == 3 && i < DAMAGES; i++) {
        damage = strcmp(argv[2], damages[i]) == 0 ? (enum damage)i : damage;
    }
    txn_history_init(&history, (struct txn_limits){1u << 22, 1u << 24, (size_t)1 << 29});
    if (load(argv[1]) != 0 || (argc == 3 && damage == DAMAGE_NONE)) {
        fprintf(stderr, "judge: no such directory or damage\n");
        return 2;
    }
    if (damage != DAMAGE_NONE && !falsify(damage)) {
        fprintf(stderr, "judge: there is nothing to falsify like that\n");
        return 3;
    }
    txn_check(&history, TXN_LEVEL_STRICT, &v);
    for (uint32_t i = 0; i < v.findings; i++) {
        if (!v.finding[i].allowed) {
            fprintf(stderr, "judge: %s\n", v.finding[i].text);
        }
    }
    count_by(TXN_SERIALIZABLE, false, now);
    count_by(TXN_SERIALIZABLE, true, older);
    count_by(TXN_SNAPSHOT, false, snapshot);
    printf("{\"threads\":%" PRIu64 ",\"died\":%" PRIu64 ",\"serializable\":%" PRIu64
           ",\"older\":%" PRIu64 ",\"snapshot\":%" PRIu64 ",\"aborted\":%" PRIu64
           ",\"unknown\":%" PRIu64 ",\"counted\":%u,\"edges\":%u,\"forbidden\":{",
           processes, unfinished, now[TXN_COMMITTED], older[TXN_COMMITTED], snapshot[TXN_COMMITTED],
           now[TXN_ABORTED] + older[TXN_ABORTED] + snapshot[TXN_ABORTED],
           now[TXN_UNKNOWN] + older[TXN_UNKNOWN] + snapshot[TXN_UNKNOWN], v.counted, v.edges);
    for (int i = 0; i < TXN_ANOMALY_COUNT; i++) {
        printf("%s\"%s\":%u", i == 0 ? "" : ",", txn_anomaly_name((enum txn_anomaly)i),
               v.forbidden[i]);
    }
    printf("}}\n");
    txn_history_close(&history);
    return v.outcome == TXN_OK ? 0 : v.outcome == TXN_VIOLATION ? 1 : 3;
}
