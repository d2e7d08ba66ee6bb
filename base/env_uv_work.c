/* Work: a thread for each queue, and completions that come back to the loop through its one
 * eventfd.
 *
 * Not uv_queue_work(): its pool is one for the whole process, has no order within a kind of work,
 * and a checkpoint that fills it would delay the log's syncs. */
#include <signal.h>

#include "base/assert.h"
#include "base/internal.h"

static void *worker_main(void *arg)
{
    struct env_uv_queue *q = arg;
    struct env_uv *e = q->env;
    pthread_mutex_lock(&q->lock);
    for (;;) {
        while (list_empty(&q->works) && !q->stopping) {
            pthread_cond_wait(&q->wake, &q->lock);
        }
        if (list_empty(&q->works)) {
            break;
        }
        struct env_work *work = list_entry(q->works.next, struct env_work, link);
        list_remove(&work->link);
        pthread_mutex_unlock(&q->lock);

        work->run(work);

        pthread_mutex_lock(&e->lock);
        list_push_back(&e->works_done, &work->link);
        pthread_mutex_unlock(&e->lock);
        env_uv__wake(e);
        pthread_mutex_lock(&q->lock);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

void env_uv__queue_push(struct env_uv *e, struct env_work *work)
{
    struct env_uv_queue *q = &e->queues[work->queue];
    pthread_mutex_lock(&q->lock);
    list_push_back(&q->works, &work->link);
    pthread_mutex_unlock(&q->lock);
    /* After the unlock, so that the worker doesn't wake only to wait for the mutex. */
    pthread_cond_signal(&q->wake);
}

void env_uv__work(struct env *env, struct env_work *work)
{
    struct env_uv *e = env_uv_of(env);
    assert(work->queue < ENV_QUEUE_COUNT);
    assert(work->run != NULL);
    assert(work->done != NULL);
    e->works_out++;
    env_uv__queue_push(e, work);
}

void env_uv__works_finish(struct env_uv *e)
{
    struct list done;
    list_init(&done);
    pthread_mutex_lock(&e->lock);
    list_splice(&done, &e->works_done);
    pthread_mutex_unlock(&e->lock);
    while (!list_empty(&done)) {
        struct env_work *work = list_entry(done.next, struct env_work, link);
        list_remove(&work->link);
        assert(e->works_out > 0);
        e->works_out--;
        work->done(work);
    }
}

static void queue_close(struct env_uv_queue *q)
{
    pthread_mutex_lock(&q->lock);
    assert(list_empty(&q->works));
    q->stopping = true;
    pthread_mutex_unlock(&q->lock);
    pthread_cond_signal(&q->wake);
    int rv = pthread_join(q->thread, NULL);
    assert(rv == 0);
    pthread_cond_destroy(&q->wake);
    pthread_mutex_destroy(&q->lock);
}

int env_uv__queues_open(struct env_uv *e)
{
    static const char *const names[ENV_QUEUE_COUNT] = {"log-0", "log-1", "checkpoint", "misc"};
    /* A thread inherits the mask: the program's signals belong to the program's threads. */
    sigset_t all;
    sigset_t old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int rv = 0;
    for (size_t i = 0; i < ENV_QUEUE_COUNT; i++) {
        struct env_uv_queue *q = &e->queues[i];
        q->env = e;
        q->stopping = false;
        list_init(&q->works);
        pthread_mutex_init(&q->lock, NULL);
        pthread_cond_init(&q->wake, NULL);
        if (pthread_create(&q->thread, NULL, worker_main, q) != 0) {
            pthread_cond_destroy(&q->wake);
            pthread_mutex_destroy(&q->lock);
            while (i > 0) {
                queue_close(&e->queues[--i]);
            }
            rv = ERR_NOMEM;
            break;
        }
        (void)pthread_setname_np(q->thread, names[i]);
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rv;
}

void env_uv__queues_close(struct env_uv *e)
{
    assert(e->works_out == 0);
    for (size_t i = 0; i < ENV_QUEUE_COUNT; i++) {
        queue_close(&e->queues[i]);
    }
}
