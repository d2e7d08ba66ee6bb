/* What opening a directory leaves to the disk thread, while it goes on reading itself: each file
 * that is met for the first time costs a read of the disk or several, and each sync a wait, one
 * behind the other. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "embed/internal.h"

void embed__opening_begin(struct embedded *db)
{
    struct embedded_opening *o = &db->opening;
    list_init(&o->jobs);
    (void)pthread_mutex_init(&o->lock, NULL);
    (void)pthread_cond_init(&o->news, NULL);
}

static void give(struct embedded *db, struct embedded_job *job)
{
    struct embedded_opening *o = &db->opening;
    (void)pthread_mutex_lock(&o->lock);
    assert(!o->over);
    list_push_back(&o->jobs, &job->link);
    (void)pthread_cond_broadcast(&o->news);
    (void)pthread_mutex_unlock(&o->lock);
}

/* Runs the oldest that nobody has begun, without the lock. */
static void run_one(struct embedded_opening *o)
{
    struct embedded_job *job = list_entry(o->jobs.next, struct embedded_job, link);
    list_remove(&job->link);
    o->running++;
    (void)pthread_mutex_unlock(&o->lock);
    job->run(job);
    (void)pthread_mutex_lock(&o->lock);
    o->running--;
    if (o->err == 0 && job->err != 0) {
        o->err = job->err;
        o->text = job->text;
    }
    (void)pthread_cond_broadcast(&o->news);
}

int embed__opening_wait(struct embedded *db, struct err_text *e)
{
    struct embedded_opening *o = &db->opening;
    (void)pthread_mutex_lock(&o->lock);
    while (!list_empty(&o->jobs) || o->running > 0) {
        if (!list_empty(&o->jobs)) {
            run_one(o);
        } else {
            (void)pthread_cond_wait(&o->news, &o->lock);
        }
    }
    int rv = o->err;
    (void)pthread_mutex_unlock(&o->lock);
    return rv == 0 ? 0
                   : err_set(e, rv, "%s", o->text.text[0] != '\0' ? o->text.text : err_text_of(rv));
}

void embed__opening_help(struct embedded *db)
{
    struct embedded_opening *o = &db->opening;
    (void)pthread_mutex_lock(&o->lock);
    while (!o->over) {
        if (!list_empty(&o->jobs)) {
            run_one(o);
        } else {
            (void)pthread_cond_wait(&o->news, &o->lock);
        }
    }
    (void)pthread_mutex_unlock(&o->lock);
}

void embed__opening_end(struct embedded *db)
{
    struct embedded_opening *o = &db->opening;
    (void)pthread_mutex_lock(&o->lock);
    list_init(&o->jobs); /* what opening has failed before */
    while (o->running > 0) {
        (void)pthread_cond_wait(&o->news, &o->lock);
    }
    o->over = true;
    (void)pthread_cond_broadcast(&o->news);
    (void)pthread_mutex_unlock(&o->lock);
}

void embed__opening_close(struct embedded *db)
{
    (void)pthread_cond_destroy(&db->opening.news);
    (void)pthread_mutex_destroy(&db->opening.lock);
}

/* ---- the jobs ---- */

static void ask_image(void *arg, const char *name)
{
    struct embedded *db = arg;
    char dir[EMBED_PATH_BYTES];
    uint64_t uid = 0;
    if (sscanf(name, "%16" SCNx64, &uid) == 1 && embed__heap_path(db, uid, dir, NULL) == 0) {
        image_ahead(embed_env(db), dir);
    }
}

/* Before the lock of the directory is held: nothing is believed of what is read here. */
static void ask_run(struct embedded_job *job)
{
    struct embedded *db = container_of(job, struct embedded, opening.ask);
    char dir[EMBED_PATH_BYTES];
    if (embed__path(db, "heaps", dir, NULL) == 0) {
        (void)env_dir_list(embed_env(db), dir, ask_image, db);
    }
}

void embed__opening_ask(struct embedded *db)
{
    db->opening.ask.run = ask_run;
    give(db, &db->opening.ask);
}

static void log_run(struct embedded_job *job)
{
    struct embedded *db = container_of(job, struct embedded, opening.log);
    job->err = wal_begin(db->wal, &job->text);
}

void embed__opening_log(struct embedded *db)
{
    db->opening.log.run = log_run;
    give(db, &db->opening.log);
}

static void settle_run(struct embedded_job *job)
{
    struct embedded_heap *h = container_of(job, struct embedded_heap, settle);
    job->err = image_settle(h->image, &job->text);
}

void embed__opening_settle(struct embedded_heap *h)
{
    h->settle.run = settle_run;
    give(h->db, &h->settle);
}
