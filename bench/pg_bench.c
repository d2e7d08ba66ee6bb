/* PostgreSQL: transactions over two primaries by two-phase commit, as a client drives it that loses
 * no time: both primaries at once, each phase one pipelined round trip, statements prepared.
 *
 * txn2: BEGIN, an UPDATE of a row of --bytes and PREPARE TRANSACTION on both, then COMMIT PREPARED
 * on both. (A real coordinator would make its decision durable in between; that is left out.) Rows
 * are the client's own, --keys of them. --target HOST:PORT,HOST:PORT: the primaries. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "bench/fibers.h"
#include "bench/harness.h"

#define PRIMARIES 2

static struct bench_opts opts;
static struct {
    char host[64], port[16];
} primaries[PRIMARIES];

static void find_primaries(void)
{
    char *targets = strdup(opts.target);
    char *rest = NULL;
    char *t = strtok_r(targets, ",", &rest);
    for (int i = 0; i < PRIMARIES; i++, t = strtok_r(NULL, ",", &rest)) {
        if (t == NULL || sscanf(t, "%63[^:]:%15s", primaries[i].host, primaries[i].port) != 2) {
            fprintf(stderr, "pg_bench: --target HOST:PORT,HOST:PORT\n");
            exit(2);
        }
    }
    free(targets);
}

static PGconn *connect_to(int primary)
{
    const char *const names[] = {"host",    "port",    "user",
                                 "dbname",  "sslmode", "sslrootcert",
                                 "sslcert", "sslkey",  "ssl_min_protocol_version",
                                 NULL};
    const char *const values[] = {primaries[primary].host,
                                  primaries[primary].port,
                                  "postgres",
                                  "postgres",
                                  "verify-full",
                                  opts.ca,
                                  opts.cert,
                                  opts.key,
                                  "TLSv1.3",
                                  NULL};
    PGconn *c = PQconnectdbParams(names, values, 0);
    if (PQstatus(c) != CONNECTION_OK) {
        fprintf(stderr, "pg_bench: %s", PQerrorMessage(c));
        exit(1);
    }
    return c;
}

static void run_sql(PGconn *c, const char *sql)
{
    PGresult *r = PQexec(c, sql);
    if (PQresultStatus(r) != PGRES_COMMAND_OK) {
        fprintf(stderr, "pg_bench: %s", PQerrorMessage(c));
        exit(1);
    }
    PQclear(r);
}

/* Half of each page stays free, so that an update finds its place beside the old row. */
static void make_rows(void)
{
    char sql[512];
    for (int i = 0; i < PRIMARIES; i++) {
        PGconn *c = connect_to(i);
        run_sql(c, "SET client_min_messages = warning; DROP TABLE IF EXISTS bench");
        run_sql(c, "CREATE TABLE bench (id int PRIMARY KEY, value bytea) WITH (fillfactor = 50)");
        (void)snprintf(sql, sizeof sql,
                       "INSERT INTO bench SELECT n, decode(repeat('78', %u), 'hex') "
                       "FROM generate_series(0, %u) n",
                       opts.bytes, opts.clients * opts.keys - 1);
        run_sql(c, sql);
        PQfinish(c);
    }
}

static bool readable(PGconn *c)
{
    struct pollfd fd = {.fd = PQsocket(c), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

/* PQgetResult() of a fiber. PQconsumeInput() may leave a part behind, of which nobody tells us. */
static PGresult *next_result(PGconn *c)
{
    while (PQisBusy(c) == 1) {
        if (!readable(c)) {
            fibers_wait();
        }
        if (PQconsumeInput(c) != 1) {
            break;
        }
    }
    return PQgetResult(c);
}

/* What answers a batch of statements that ends with a sync. */
static bool read_answers(PGconn *c, unsigned statements)
{
    bool ok = true;
    for (unsigned i = 0; i < statements; i++) {
        PGresult *r = next_result(c);
        ok = ok && PQresultStatus(r) == PGRES_COMMAND_OK;
        PQclear(r);
        PQclear(next_result(c)); /* NULL: the end of the statement's results */
    }
    PGresult *r = next_result(c);
    ok = ok && PQresultStatus(r) == PGRES_PIPELINE_SYNC;
    PQclear(r);
    return ok;
}

static bool send_prepare(PGconn *c, unsigned row, const char *value, const char *name)
{
    char id[16];
    char sql[96];
    const char *const values[] = {id, value};
    const int lengths[] = {0, (int)opts.bytes};
    const int formats[] = {0, 1};
    (void)snprintf(id, sizeof id, "%u", row);
    (void)snprintf(sql, sizeof sql, "PREPARE TRANSACTION '%s'", name);
    return PQsendQueryPrepared(c, "begin", 0, NULL, NULL, NULL, 1) == 1 &&
           PQsendQueryPrepared(c, "update", 2, values, lengths, formats, 1) == 1 &&
           PQsendQueryParams(c, sql, 0, NULL, NULL, NULL, NULL, 1) == 1 && PQpipelineSync(c) == 1;
}

static bool send_commit(PGconn *c, const char *name)
{
    char sql[96];
    (void)snprintf(sql, sizeof sql, "COMMIT PREPARED '%s'", name);
    return PQsendQueryParams(c, sql, 0, NULL, NULL, NULL, NULL, 1) == 1 && PQpipelineSync(c) == 1;
}

static bool transact(PGconn *const *c, unsigned row, const char *value, const char *name)
{
    bool ok = true;
    for (int i = 0; ok && i < PRIMARIES; i++) {
        ok = send_prepare(c[i], row, value, name);
    }
    for (int i = 0; ok && i < PRIMARIES; i++) {
        ok = read_answers(c[i], 3);
    }
    for (int i = 0; ok && i < PRIMARIES; i++) {
        ok = send_commit(c[i], name);
    }
    for (int i = 0; ok && i < PRIMARIES; i++) {
        ok = read_answers(c[i], 1);
    }
    return ok;
}

static void set_up(PGconn *c)
{
    if (PQenterPipelineMode(c) != 1 || PQsendPrepare(c, "begin", "BEGIN", 0, NULL) != 1 ||
        PQsendPrepare(c, "update", "UPDATE bench SET value = $2 WHERE id = $1", 0, NULL) != 1 ||
        PQpipelineSync(c) != 1 || !read_answers(c, 2)) {
        fprintf(stderr, "pg_bench: %s", PQerrorMessage(c));
        exit(1);
    }
}

static void run(unsigned id)
{
    PGconn *c[PRIMARIES];
    char *value = malloc(opts.bytes);
    memset(value, 'x', opts.bytes);
    for (int i = 0; i < PRIMARIES; i++) {
        c[i] = connect_to(i);
        fibers_watch(PQsocket(c[i]));
        set_up(c[i]);
    }
    for (unsigned n = 0; !bench_stopping(); n++) {
        char name[64];
        (void)snprintf(name, sizeof name, "bench-%ld-%u-%u", (long)getpid(), id, n);
        uint64_t started = bench_now_ns();
        if (!transact(c, id * opts.keys + n % opts.keys, value, name)) {
            bench_failed(id, PQerrorMessage(c[0]));
            break;
        }
        bench_done(id, started, 1);
    }
    for (int i = 0; i < PRIMARIES; i++) {
        PQfinish(c[i]);
    }
    free(value);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"txn2", NULL};
    (void)bench_parse(argc, argv, names, &opts);
    find_primaries();
    make_rows();
    fibers_start(opts.clients, run);
    int rv = bench_window(&opts, "postgresql");
    fibers_join(); /* what is prepared has to be committed, too */
    return rv;
}
