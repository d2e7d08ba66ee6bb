/* libcairn above the core: handles, the library thread, futures. Nobody outside client/ includes
 * this. */
#ifndef CAIRN_CLIENT_SDK_H
#define CAIRN_CLIENT_SDK_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/embedded.h"
#include "cairn/cairn.h"
#include "client/core.h"

/* Something for the library thread to do; caller's memory until run. */
struct sdk_item {
    struct sdk_item *next;
    void (*run)(struct sdk_item *item);
};

/* Waiters of many futures share few locks: a future that nobody waits for costs no system call. */
#define SDK_STRIPES 16u
struct sdk_stripe {
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

/* The library thread (loop.c). */
struct sdk_loop {
    struct env *env;
    struct rpc_identity identity;
    pthread_t thread;
    _Atomic uint32_t users; /* clients */
    struct env_post left;   /* the last one has gone */
    struct env_timer drain; /* waits until the last connection is closed */
    uint32_t drains;
};

struct cairn_client {
    struct sdk_loop *loop;            /* NULL: a directory */
    struct core *core;                /* library thread only, once it runs */
    _Atomic(struct sdk_item *) items; /* newest first */
    struct env_post post;             /* under way while items isn't empty */
    struct sdk_stripe stripes[SDK_STRIPES];
    struct sdk_item open, close;
    const char *endpoints; /* while it is opened: the caller's */
    struct core_opts core_opts;
    uint32_t timeout_ms;
    unsigned forks; /* forks_count() when it was connected */
    /* A directory on this machine (client/embedded.c); then loop and core are NULL. */
    const struct embedded_ops *embedded; /* NULL: a cluster */
    struct embedded *db;
    struct embedded_post embedded_post;
    /* The outcome of connecting and closing, guarded by stripes[0]. */
    bool ready, closed;
    int ready_err;
    struct err_text ready_text;
};

/* An object that transactions conflicted about lately (contention.c). */
struct sdk_hot {
    _Atomic uint64_t ptr;
    _Atomic uint64_t until_ns; /* CLOCK_MONOTONIC */
    _Atomic uint32_t ms;       /* how long that was from the last conflict */
};
#define SDK_HOT_OBJECTS 64u

/* Containers that were found to be of their type (container.c). */
#define SDK_CONTAINER_TYPES 7u /* enum cairn_container_type */
#define SDK_CONTAINERS      16u
#define SDK_FIELDS          16u

struct cairn_heap {
    struct cairn_client *client;
    struct core_heap *core;
    struct sdk_item close;
    struct sdk_hot hot[SDK_HOT_OBJECTS];
    _Atomic uint64_t containers[SDK_CONTAINER_TYPES][SDK_CONTAINERS];
    _Atomic uint64_t fields[SDK_FIELDS]; /* of types, that a path may name (graph_path.c) */
};

enum future_state {
    FUTURE_READY = 1 << 0,    /* the outcome is there */
    FUTURE_WAITED = 1 << 1,   /* somebody waits in its stripe */
    FUTURE_CALLBACK = 1 << 2, /* cb is set */
    FUTURE_CALLED = 1 << 3,   /* cb has returned */
    FUTURE_FREED = 1 << 4     /* by its owner; the memory goes when nobody else needs it */
};

struct cairn_future {
    struct cairn_client *client;
    _Atomic unsigned state;
    cairn_future_cb cb;
    void *arg;
    uint8_t *data; /* READ: the future's own bytes */
    /* A commit's that allocates: what is to be given back when it comes to nothing (tx_commit.c).
     */
    struct tx_set *set;
    union {                          /* of a directory's call; not zeroed */
        union core_request request;  /* until it is handed over */
        struct embedded_call direct; /* from then on: the same call */
    };
    struct core_call call; /* the library thread's until FUTURE_READY; not all of it is zeroed,
                              and nothing behind it */
    struct sdk_item submit, callback;
};

/* loop.c. Open: with one user, its thread runs; says what is wrong. Leave: the last one waits for
 * the thread's end; not on the library thread. */
struct tls_opts;
int sdk__loop_open(const struct tls_opts *tls, struct sdk_loop **out);
void sdk__loop_join(struct sdk_loop *loop);
void sdk__loop_leave(struct sdk_loop *loop);

/* client.c */
void sdk__push(struct cairn_client *client, struct sdk_item *item); /* thread: any */
bool sdk__on_library_thread(const struct cairn_client *client);     /* thread: any */
void sdk__items_run(struct cairn_client *client);                   /* on the library thread */
/* True in a child of the process that opened the client's directory: nothing works there. */
bool sdk__is_foreign(const struct cairn_client *client);

/* embedded.c: a client of a directory. */
void sdk__embedded_use(const struct embedded_ops *ops);
int sdk__embedded_connect(const char *url, struct cairn_client *client);
void sdk__embedded_heap_close(struct cairn_heap *heap);
/* Requests to a heap may be made after its close, until it is let go. thread: any */
void sdk__embedded_keep(struct core_shard *shard);
void sdk__embedded_let_go(struct core_shard *shard);
/* Runs a prepared call to its end, and hands one over. */
void sdk__embedded_run(struct cairn_future *future);
void sdk__embedded_submit(struct cairn_future *future);
bool sdk__embedded_wait(struct cairn_future *future, uint32_t timeout_ms);     /* false: timeout */
void sdk__embedded_want(struct cairn_future *future);                          /* without waiting */
void sdk__embedded_watch(struct cairn_heap *heap, struct embedded_call *call); /* submits it */

/* explain.c: what to do about a code, without a full stop; static. thread: any */
const char *sdk__next_step(int err);
/* A call that has ended with a code alone, or its text, gets a cause and what to do next. */
void sdk__explain(struct core_call *call);

/* container.c: 0: the object is of that type (CAIRN_TYPE_LIST ...); INVAL: it is of another, and
 * the message says of which; else why nobody knows. */
int sdk__container_check(cairn_heap *heap, cairn_ptr ptr, uint32_t type);

/* error.c: set the calling thread's message and return err. An empty text becomes the code's, and
 * the code's own text gets what to do next behind it. */
int sdk__fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same, with what to do about the code behind the text. */
int sdk__because(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* INVAL: this argument of the public call is NULL, and must not be. */
static inline int sdk__missing(const char *name)
{
    (void)sdk__fail(CAIRN_E_INVAL, "%s is NULL: give one (the header says what may be NULL)", name);
    return CAIRN_E_INVAL;
}

/* tx_commit.c: the future of a commit that has a set is freed, with its outcome. */
void sdk__tx_settled(struct cairn_future *future);

/* lease.c. A directory has no session whose end gives back the pointers that nobody has taken. On
 * the library thread, when nobody else uses them any more. */
void sdk__lease_pool_return(struct core_shard *shard);

/* type.c: appends a type as it travels; INVAL, NOMEM, said already. */
int sdk__type_encode(const struct cairn_type *type, struct buf *out);

/* spare.c: memory of futures, for any client. thread: any */
struct cairn_future *sdk__future_memory(void); /* uninitialised; NULL: no memory */
void sdk__future_forget(struct cairn_future *future);
void sdk__future_spares_free(void); /* at least those that nobody else is at */

/* future.c */
/* A directory's call has its outcome. True: there is something to do on the
 * library thread, for sdk__future_call(). */
bool sdk__future_settled(struct cairn_future *future);
void sdk__future_call(struct cairn_future *future); /* on the library thread */
void sdk__future_init(struct cairn_future *future, struct cairn_client *client);
struct cairn_future *sdk__future_new(struct cairn_heap *heap);    /* NULL: no memory, or no heap */
struct cairn_future *sdk__future_of(struct cairn_client *client); /* NULL: no memory */
void sdk__future_ready(struct cairn_future *future); /* with the outcome it has: nothing to do */
/* `prepared` is what core_prepare_*() returned for future->call (the future is freed if it failed).
 */
int sdk__future_start(struct cairn_future *future, int prepared, struct cairn_future **out);
/* The same for a future in the caller's frame, and waits. Its results are in future->call. */
int sdk__future_run(struct cairn_future *future, int prepared);

/* On the monotonic clock, for pthread_cond_timedwait() of a stripe. */
struct timespec sdk_time_after(uint32_t ms);

#endif
