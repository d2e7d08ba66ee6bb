/* 9. Transactions: a bank whose accounts lie on all shards of a heap.
 *
 *      ex9_bank [SECONDS [THREADS [TARGET]]]
 *
 * Threads move money between random accounts, which mostly are on shards of different nodes; an
 * auditor adds all accounts up in a read-only transaction and must see the same total every time.
 * Kill nodes meanwhile: calls take longer, and the total stays. Run it twice at once, too. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cairn/tx.h>
#include <cairn/typed.h>

enum { TYPE_ACCOUNT = 3, ACCOUNTS = 32, OPENING_BALANCE = 1000, THREADS_MAX = 64 };

typedef struct account {
    int64_t balance;
} account;

struct bank {
    cairn_heap *heap;
    cairn_ptr accounts[ACCOUNTS];
};

struct teller {
    struct bank *bank;
    pthread_t thread;
    time_t end;
    unsigned seed;
    unsigned long done, runs;
    int outcome; /* of the call that ended it */
    char why[160];
};

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s (%s)\n", what, cairn_errormsg(), cairn_error_name(rv));
        exit(1);
    }
}

/* The bank is founded by whoever comes first: all of it, or nothing. */
static int found(cairn_tx *tx, void *arg)
{
    struct bank *bank = arg;
    cairn_ptr table;
    int rv = cairn_tx_root_get(tx, "bank", &table);
    if (rv == 0) {
        return cairn_tx_read(tx, table, 0, bank->accounts, sizeof bank->accounts);
    }
    if (rv != CAIRN_E_NOTFOUND) {
        return rv;
    }
    const account opening = {.balance = OPENING_BALANCE};
    rv = cairn_tx_alloc(tx, sizeof bank->accounts, 0, &table);
    for (int i = 0; i < ACCOUNTS && rv == 0; i++) {
        rv = cairn_tx_alloc(tx, sizeof opening, TYPE_ACCOUNT, &bank->accounts[i]);
        if (rv == 0) {
            rv = cairn_tx_write(tx, bank->accounts[i], 0, &opening, sizeof opening);
        }
    }
    if (rv == 0) {
        rv = cairn_tx_write(tx, table, 0, bank->accounts, sizeof bank->accounts);
    }
    return rv != 0 ? rv : cairn_tx_root_set(tx, "bank", table);
}

struct transfer {
    struct teller *teller;
    cairn_ptr from, to;
    int64_t amount;
};

/* May run several times: everything it does is done to the transaction. */
static int transfer(cairn_tx *tx, void *arg)
{
    struct transfer *t = arg;
    account from;
    account to;
    t->teller->runs++;
    int rv = cairn_tx_read(tx, t->from, 0, &from, sizeof from);
    if (rv == 0) {
        rv = cairn_tx_read(tx, t->to, 0, &to, sizeof to);
    }
    if (rv != 0 || from.balance < t->amount) {
        return rv; /* too poor: nothing to commit but that it was so */
    }
    from.balance -= t->amount;
    to.balance += t->amount;
    rv = cairn_tx_write(tx, t->from, 0, &from, sizeof from);
    return rv != 0 ? rv : cairn_tx_write(tx, t->to, 0, &to, sizeof to);
}

/* 0 .. limit - 1; good enough to choose accounts by. */
static int draw(struct teller *teller, int limit)
{
    teller->seed = teller->seed * 1103515245u + 12345u;
    return (int)((teller->seed >> 16) % (unsigned)limit);
}

static void note(struct teller *teller, int rv)
{
    teller->outcome = rv;
    (void)snprintf(teller->why, sizeof teller->why, "%s (%s)", cairn_errormsg(),
                   cairn_error_name(rv));
}

static void *work(void *arg)
{
    struct teller *teller = arg;
    while (time(NULL) < teller->end) {
        int from = draw(teller, ACCOUNTS);
        int to = (from + 1 + draw(teller, ACCOUNTS - 1)) % ACCOUNTS;
        struct transfer t = {.teller = teller,
                             .from = teller->bank->accounts[from],
                             .to = teller->bank->accounts[to],
                             .amount = 1 + draw(teller, 100)};
        int rv = cairn_tx_run(teller->bank->heap, transfer, &t);
        if (rv != 0) {
            note(teller, rv);
            break;
        }
        teller->done++;
    }
    return NULL;
}

struct audit {
    struct teller *teller;
    int64_t total;
};

static int add_up(cairn_tx *tx, void *arg)
{
    struct audit *audit = arg;
    int rv = 0;
    audit->total = 0;
    audit->teller->runs++;
    for (int i = 0; i < ACCOUNTS && rv == 0; i++) {
        account a;
        rv = cairn_tx_read(tx, audit->teller->bank->accounts[i], 0, &a, sizeof a);
        audit->total += rv == 0 ? a.balance : 0;
    }
    return rv;
}

static void *watch(void *arg)
{
    struct teller *auditor = arg;
    cairn_tx_opts opts;
    cairn_tx_opts_init(&opts, sizeof opts);
    opts.read_only = 1;
    while (time(NULL) < auditor->end || auditor->done == 0) {
        struct audit audit = {.teller = auditor};
        int rv = cairn_tx_run_opts(auditor->bank->heap, &opts, add_up, &audit);
        if (rv != 0) {
            note(auditor, rv);
            break;
        }
        if (audit.total != (int64_t)ACCOUNTS * OPENING_BALANCE) {
            auditor->outcome = 1;
            (void)snprintf(auditor->why, sizeof auditor->why, "the total was %lld",
                           (long long)audit.total);
            break;
        }
        auditor->done++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    long seconds = argc > 1 ? strtol(argv[1], NULL, 10) : 5;
    long threads = argc > 2 ? strtol(argv[2], NULL, 10) : 8;
    static struct teller tellers[THREADS_MAX + 1];
    cairn_client *client = NULL;
    struct bank bank = {.heap = NULL};
    if (seconds < 1 || seconds > 86400 || threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "usage: ex9_bank [SECONDS [THREADS (1..%d) [TARGET]]]\n", THREADS_MAX);
        return 2;
    }
    must(cairn_connect(argc > 3 ? argv[3] : NULL, NULL, &client), "connect");
    int rv = cairn_heap_create(client, "bank", NULL);
    if (rv != CAIRN_E_EXISTS) {
        must(rv, "create the heap");
    }
    must(cairn_heap_open(client, "bank", &bank.heap), "open the heap");
    must(cairn_tx_run(bank.heap, found, &bank), "found the bank");

    for (long i = 0; i <= threads; i++) {
        tellers[i] = (struct teller){.bank = &bank,
                                     .end = time(NULL) + seconds,
                                     .seed = (unsigned)time(NULL) * 31u + (unsigned)i};
        if (pthread_create(&tellers[i].thread, NULL, i < threads ? work : watch, &tellers[i]) !=
            0) {
            fprintf(stderr, "no thread could be started\n");
            return 1;
        }
    }
    unsigned long done = 0;
    unsigned long runs = 0;
    int failed = 0;
    for (long i = 0; i <= threads; i++) {
        pthread_join(tellers[i].thread, NULL);
        if (tellers[i].outcome != 0) {
            fprintf(stderr, "%s %ld: %s\n", i < threads ? "teller" : "auditor", i, tellers[i].why);
            failed = 1;
        }
        done += i < threads ? tellers[i].done : 0;
        runs += i < threads ? tellers[i].runs : 0;
    }
    printf("%lu transfers in %lu attempts, %lu audits: total %d each time\n", done, runs,
           tellers[threads].done, ACCOUNTS * OPENING_BALANCE);
    cairn_heap_close(bank.heap);
    cairn_client_free(client);
    return failed;
}
