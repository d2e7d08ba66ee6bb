/* Operators' questions whose answer takes a while: `checkpoint` and `inspect`. Both walk over some
 * shards of this node, one at a time: first the shard's image is brought up to date; then, for
 * `inspect`, a worker loads that image beside the running heap and looks at the copy, so that
 * nothing of it holds up the reactor. While a worker reads an image, no checkpoint touches its
 * files. (In pmem mode it changes with every entry; reading copes with that: image_pmem_load.c.)
 *
 *   next shard -> waits for its checkpoint -> (a worker reads) -> row of the answer -> next shard
 *
 * The answer is sent at the end; if its connection has gone by then, to nobody. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/survey.h"
#include "base/assert.h"
#include "base/mem.h"
#include "node/internal.h"

#define FINDINGS_MAX        200u
#define ANSWER_FINDINGS_MAX 4096u /* of all shards: an answer is one frame */
#define JOBS_MAX            64u
#define CELLS_MAX           4096u
#define CELLS               512u

enum inspect_what { INSPECT_NOTHING, INSPECT_CHECK, INSPECT_TYPES, INSPECT_MAP };

struct finding {
    bool dangling;
    char code[32];
    char text[224];
};

/* What a worker finds in one image; its own memory, nothing of the node's. */
struct inspection {
    struct env *env;
    enum inspect_what what;
    enum image_mode mode;
    char *dir;
    uint64_t uid;
    int err;
    struct err_text text;
    uint64_t index, objects, damage, dangling;
    struct finding *findings;
    uint32_t finding_count;
    struct survey *survey;
    struct survey_cell *cells;
    uint32_t cell_count;
    uint64_t cell_bytes;
};

struct inspect_job {
    struct list link;  /* node->jobs */
    struct node *node; /* NULL: it is gone while a worker was reading */
    struct request *request;
    enum inspect_what what;
    bool working;
    uint32_t cells;
    uint32_t findings_left; /* that the answer may have */
    json_t *rows;
    uint64_t *uids;
    uint32_t count, next, capacity;
    uint64_t heap_id;  /* 0: all */
    uint64_t sequence; /* of the image that is being read */
    struct shard_checkpoint_wait wait;
    struct env_work work;
    struct inspection in;
};

static void step(struct inspect_job *job);

/* ---- the worker's part ---- */

static void on_finding(void *arg, enum heap_severity severity, const char *code, const char *text)
{
    struct inspection *in = arg;
    in->dangling += severity == HEAP_FINDING_DANGLING;
    if (in->finding_count == FINDINGS_MAX) {
        return;
    }
    struct finding *finding = &in->findings[in->finding_count++];
    finding->dangling = severity == HEAP_FINDING_DANGLING;
    (void)snprintf(finding->code, sizeof finding->code, "%s", code);
    (void)snprintf(finding->text, sizeof finding->text, "%s", text);
}

static void look(struct inspection *in, const struct heap *heap)
{
    struct heap_stats stats;
    heap_get_stats(heap, &stats);
    in->index = heap_index(heap);
    in->objects = stats.object_count;
    switch (in->what) {
    case INSPECT_CHECK:
        in->damage = heap_check_all(heap, FINDINGS_MAX, on_finding, in);
        break;
    case INSPECT_TYPES:
        in->err = survey_types(heap, in->survey);
        break;
    case INSPECT_MAP:
        in->cell_bytes = survey_map(heap, in->cells, in->cell_count);
        break;
    case INSPECT_NOTHING:
        break;
    }
}

/* So damaged that it doesn't load: that is what was asked. */
static void check_damaged(struct inspection *in)
{
    struct err_text text = {""};
    in->err = image_check(in->env, in->dir, in->uid, in->mode, FINDINGS_MAX, on_finding, in,
                          &in->damage, &text);
    if (in->err == ERR_CORRUPT || (in->err == 0 && in->damage == 0)) {
        on_finding(in, HEAP_FINDING_DAMAGE, "image", in->text.text);
        in->damage = 1;
        in->err = 0;
    }
}

static void work_run(struct env_work *work)
{
    struct inspection *in = &container_of(work, struct inspect_job, work)->in;
    struct heap *heap = NULL;
    in->findings =
        in->what == INSPECT_CHECK ? mem_zalloc(FINDINGS_MAX * sizeof *in->findings) : NULL;
    in->survey = in->what == INSPECT_TYPES ? mem_zalloc(sizeof *in->survey) : NULL;
    in->cells = in->what == INSPECT_MAP ? mem_zalloc(in->cell_count * sizeof *in->cells) : NULL;
    if (in->findings == NULL && in->survey == NULL && in->cells == NULL) {
        in->err = ERR_NOMEM;
        return;
    }
    in->err = image_read(in->env, in->dir, in->uid, in->mode, &heap, &in->text);
    if (in->err == 0) {
        look(in, heap);
        heap_free(heap);
    } else if (in->err == ERR_CORRUPT && in->what == INSPECT_CHECK) {
        check_damaged(in);
    }
}

/* ---- rows ---- */

static json_t *u64_text(uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    return json_string(text);
}

static json_t *row_of(const struct shard *shard)
{
    struct shard_info info;
    shard_get_info(shard, &info);
    return json_pack("{s:o,s:o,s:i}", "uid", u64_text(info.uid), "heap_id", u64_text(info.heap_id),
                     "shard", (int)info.shard);
}

static void add_failure(struct inspect_job *job, uint64_t uid, int err, const char *text)
{
    struct shard *shard = replica_shard(job->node->replica, uid);
    json_t *row = shard != NULL ? row_of(shard) : json_pack("{s:o}", "uid", u64_text(uid));
    json_object_set_new(row, "error", json_string(text[0] != 0 ? text : err_text_of(err)));
    json_object_set_new(row, "code", json_integer(err));
    json_array_append_new(job->rows, row);
}

/* Names in it needn't be UTF-8, and one may have been cut in two. */
static json_t *plain_text(const char *text)
{
    char plain[sizeof((struct finding *)0)->text];
    json_t *out = json_string(text);
    if (out != NULL) {
        return out;
    }
    (void)snprintf(plain, sizeof plain, "%s", text);
    for (size_t i = 0; plain[i] != 0; i++) {
        plain[i] = (char)((unsigned char)plain[i] < 0x80 ? plain[i] : '?');
    }
    return json_string(plain);
}

static void add_check(struct inspect_job *job, json_t *row)
{
    const struct inspection *in = &job->in;
    json_t *list = json_array();
    for (uint32_t i = 0; i < in->finding_count && job->findings_left > 0; i++) {
        const struct finding *f = &in->findings[i];
        job->findings_left--;
        json_array_append_new(list, json_pack("{s:s,s:s,s:o}", "severity",
                                              f->dangling ? "dangling" : "damage", "code", f->code,
                                              "text", plain_text(f->text)));
    }
    json_object_set_new(row, "damage", json_integer((json_int_t)in->damage));
    json_object_set_new(row, "dangling", json_integer((json_int_t)in->dangling));
    json_object_set_new(row, "findings", list);
}

static void add_types(json_t *row, const struct inspection *in)
{
    const struct survey *s = in->survey;
    json_t *list = json_array();
    for (uint32_t i = 0; i < s->type_count; i++) {
        json_array_append_new(
            list, json_pack("{s:I,s:I,s:I,s:I}", "type", (json_int_t)s->types[i].type, "objects",
                            (json_int_t)s->types[i].count, "bytes", (json_int_t)s->types[i].bytes,
                            "block_bytes", (json_int_t)s->types[i].block_bytes));
    }
    json_object_set_new(row, "slack_bytes", json_integer((json_int_t)s->slack_bytes));
    json_object_set_new(row, "types", list);
}

/* A digit per cell: content (f free, s slab, e extent, i internal) and the share in use in percent,
 * as "s87". */
static void add_map(json_t *row, const struct inspection *in)
{
    static const char contents[] = {
        [SURVEY_FREE] = 'f', [SURVEY_SLAB] = 's', [SURVEY_EXTENT] = 'e', [SURVEY_INTERNAL] = 'i'};
    json_t *list = json_array();
    for (uint32_t i = 0; i < in->cell_count; i++) {
        char text[8];
        (void)snprintf(text, sizeof text, "%c%u",
                       in->cells[i].content <= SURVEY_INTERNAL ? contents[in->cells[i].content]
                                                               : '?',
                       (in->cells[i].used_permille + 9u) / 10u);
        json_array_append_new(list, json_string(text));
    }
    json_object_set_new(row, "cell_bytes", json_integer((json_int_t)in->cell_bytes));
    json_object_set_new(row, "cells", list);
}

/* ---- the walk ---- */

static void job_free(struct inspect_job *job)
{
    list_remove(&job->link);
    json_decref(job->rows);
    mem_free(job->uids);
    mem_free(job->in.dir);
    mem_free(job);
}

static void finish(struct inspect_job *job, int err)
{
    struct node *node = job->node;
    json_t *answer = NULL;
    if (err == 0) {
        answer = json_pack("{s:s,s:O}", "node", node->config.name, "shards", job->rows);
        err = answer == NULL ? ERR_NOMEM : 0;
    }
    dispatch__answer_later(job->request, err, answer);
    json_decref(answer);
    job_free(job);
}

static void inspection_clear(struct inspection *in)
{
    mem_free(in->findings);
    mem_free(in->survey);
    mem_free(in->cells);
    mem_free(in->dir);
    memset(in, 0, sizeof *in);
}

static void work_done(struct env_work *work)
{
    struct inspect_job *job = container_of(work, struct inspect_job, work);
    struct inspection *in = &job->in;
    job->working = false;
    if (job->node == NULL) {
        inspection_clear(in);
        job_free(job);
        return;
    }
    struct shard *shard =
        job->node->replica == NULL ? NULL : replica_shard(job->node->replica, in->uid);
    if (shard != NULL) {
        shard_hold_image(shard, false);
    }
    if (job->node->replica == NULL) {
        inspection_clear(in);
        finish(job, ERR_SHUTDOWN);
        return;
    }
    struct image_stats stats = {0};
    if (shard != NULL) {
        shard_get_image_stats(shard, &stats);
    }
    if (shard == NULL) {
        add_failure(job, in->uid, ERR_NOSHARD, "the shard was dropped meanwhile");
    } else if (in->mode == IMAGE_DISK && stats.sequence != job->sequence) {
        add_failure(job, in->uid, ERR_BUSY, "the replica was filled anew meanwhile: ask again");
    } else if (in->err != 0) {
        add_failure(job, in->uid, in->err, in->text.text);
    } else {
        json_t *row = row_of(shard);
        json_object_set_new(row, "index", json_integer((json_int_t)in->index));
        json_object_set_new(row, "objects", json_integer((json_int_t)in->objects));
        if (job->what == INSPECT_CHECK) {
            add_check(job, row);
        } else if (job->what == INSPECT_TYPES) {
            add_types(row, in);
        } else {
            add_map(row, in);
        }
        json_array_append_new(job->rows, row);
    }
    inspection_clear(in);
    step(job);
}

static int start_reading(struct inspect_job *job, struct shard *shard, uint64_t uid)
{
    struct image_stats stats;
    struct inspection *in = &job->in;
    in->dir = mem_strdup(shard_dir(shard));
    if (in->dir == NULL) {
        return ERR_NOMEM;
    }
    in->env = job->node->env;
    in->what = job->what;
    in->mode = job->node->mode;
    in->uid = uid;
    in->cell_count = job->cells;
    shard_get_image_stats(shard, &stats);
    job->sequence = stats.sequence;
    shard_hold_image(shard, true);
    job->working = true;
    job->work.run = work_run;
    job->work.done = work_done;
    job->work.queue = ENV_QUEUE_MISC;
    env_work(job->node->env, &job->work);
    return 0;
}

static void checkpoint_done(struct shard_checkpoint_wait *wait, int err)
{
    struct inspect_job *job = container_of(wait, struct inspect_job, wait);
    if (job->node == NULL || err == ERR_SHUTDOWN) {
        if (job->node != NULL) {
            finish(job, err);
        } else {
            job_free(job);
        }
        return;
    }
    uint64_t uid = job->uids[job->next++];
    struct shard *shard = replica_shard(job->node->replica, uid);
    if (err == 0 && shard == NULL) {
        err = ERR_NOSHARD;
    }
    if (err == 0 && job->what != INSPECT_NOTHING) {
        err = start_reading(job, shard, uid);
        if (err == 0) {
            return;
        }
    } else if (err == 0) {
        json_t *row = row_of(shard);
        json_object_set_new(row, "index", json_integer((json_int_t)wait->index));
        json_object_set_new(row, "pages_written", json_integer((json_int_t)wait->pages_written));
        json_object_set_new(row, "pages_total", json_integer((json_int_t)wait->pages_total));
        json_object_set_new(row, "bytes_written", json_integer((json_int_t)wait->bytes_written));
        json_array_append_new(job->rows, row);
    }
    if (err != 0) {
        add_failure(job, uid, err, "");
    }
    step(job);
}

static void step(struct inspect_job *job)
{
    if (job->request->client == NULL) {
        finish(job, ERR_CANCELED); /* nobody to tell; others wait for their turn */
        return;
    }
    while (job->next < job->count) {
        uint64_t uid = job->uids[job->next];
        struct shard *shard = replica_shard(job->node->replica, uid);
        struct shard_info info = {0};
        if (shard != NULL) {
            shard_get_info(shard, &info);
        }
        if (shard != NULL && !info.failed && !info.installing && info.applied_index > 0) {
            job->wait.cb = checkpoint_done;
            shard_checkpoint_for(shard, &job->wait);
            return;
        }
        job->next++;
        add_failure(job, uid, shard == NULL ? ERR_NOSHARD : ERR_UNAVAILABLE,
                    shard == NULL ? ""
                    : info.failed ? "this replica has failed"
                                  : "this replica is being filled");
    }
    finish(job, 0);
}

struct collect {
    struct inspect_job *job;
    bool leading;
    uint64_t uid; /* 0: any */
};

static void collect_shard(void *arg, struct shard *shard)
{
    struct collect *collect = arg;
    struct inspect_job *job = collect->job;
    struct shard_info info;
    shard_get_info(shard, &info);
    if ((job->heap_id != 0 && info.heap_id != job->heap_id) ||
        (collect->leading && !info.serving) || (collect->uid != 0 && info.uid != collect->uid) ||
        job->count == job->capacity) {
        return;
    }
    job->uids[job->count++] = info.uid;
}

static int parse_what(const json_t *args, enum inspect_what *what)
{
    static const struct {
        const char *name;
        enum inspect_what what;
    } names[] = {{"check", INSPECT_CHECK}, {"types", INSPECT_TYPES}, {"map", INSPECT_MAP}};
    const char *name = json_string_value(json_object_get(args, "what"));
    for (size_t i = 0; name != NULL && i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i].name) == 0) {
            *what = names[i].what;
            return 0;
        }
    }
    return ERR_INVAL;
}

static bool is_inspecting(const struct node *node)
{
    list_for_each (it, &node->jobs) {
        if (list_entry(it, struct inspect_job, link)->what != INSPECT_NOTHING) {
            return true;
        }
    }
    return false;
}

static bool jobs_are_many(const struct node *node)
{
    uint32_t count = 0;
    list_for_each (it, &node->jobs) {
        count++;
    }
    return count >= JOBS_MAX;
}

static int job_new(struct node *node, uint64_t heap_id, struct inspect_job **out)
{
    struct inspect_job *job = mem_zalloc(sizeof *job);
    uint64_t *uids = mem_alloc(SHARDS_PER_NODE_MAX * sizeof *uids);
    json_t *rows = json_array();
    if (job == NULL || uids == NULL || rows == NULL) {
        mem_free(job);
        mem_free(uids);
        json_decref(rows);
        return ERR_NOMEM;
    }
    job->node = node;
    job->uids = uids;
    job->capacity = SHARDS_PER_NODE_MAX;
    job->rows = rows;
    job->heap_id = heap_id;
    job->cells = CELLS;
    job->findings_left = ANSWER_FINDINGS_MAX;
    list_init(&job->link);
    *out = job;
    return 0;
}

int inspect__begin(struct node *node, struct request *request, bool inspect, json_t *args,
                   struct err_text *e)
{
    enum inspect_what what = INSPECT_NOTHING;
    struct catalog_heap heap = {.heap_id = 0};
    const char *name = json_string_value(json_object_get(args, "heap"));
    const char *uid = json_string_value(json_object_get(args, "uid"));
    struct collect collect = {.leading = json_is_true(json_object_get(args, "leading"))};
    if (node->replica == NULL || node->phase != NODE_RUNNING) {
        return err_set(e, ERR_UNAVAILABLE, "this node isn't running yet");
    }
    if (inspect && parse_what(args, &what) != 0) {
        return err_set(e, ERR_INVAL, "args need {\"what\": \"check\", \"types\" or \"map\"}");
    }
    if (name != NULL && catalog_find(node->replica, slice_of(name, strlen(name)), &heap) != 0) {
        return err_set(e, ERR_NOTFOUND,
                       "heap %s does not exist; `cairnctl heap ls` lists those that do", name);
    }
    if (uid != NULL && sscanf(uid, "%" SCNu64, &collect.uid) != 1) {
        return err_set(e, ERR_INVAL, "uid is the number of a shard, as a string");
    }
    if (jobs_are_many(node)) {
        return err_set(e, ERR_BUSY, "too many checkpoints are being waited for: ask again");
    }
    if (inspect && is_inspecting(node)) {
        /* Each of them needs the memory of a whole shard. */
        return err_set(e, ERR_BUSY,
                       "this node is looking at an image for somebody else: ask again");
    }
    struct inspect_job *job;
    int rv = job_new(node, heap.heap_id, &job);
    if (rv != 0) {
        return err_set(e, rv, "out of memory");
    }
    json_int_t cells = json_integer_value(json_object_get(args, "cells"));
    if (cells > 0) {
        job->cells = cells < (json_int_t)CELLS_MAX ? (uint32_t)cells : CELLS_MAX;
    }
    job->what = what;
    job->request = request; /* of a client that is there */
    collect.job = job;
    replica_each_shard(node->replica, collect_shard, &collect);
    list_push_back(&node->jobs, &job->link);
    step(job);
    return 0;
}

void inspect__abandon(struct node *node)
{
    list_for_each_safe (it, next, &node->jobs) {
        struct inspect_job *job = list_entry(it, struct inspect_job, link);
        dispatch__answer_later(job->request, ERR_SHUTDOWN, NULL);
        list_remove(&job->link);
        job->node = NULL;
        if (!job->working) {
            job_free(job);
        }
    }
}
