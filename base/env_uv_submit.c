/* Durable writes that no thread waits for: Linux's AIO on files opened with O_DIRECT and O_DSYNC.
 *
 * A worker that writes is woken three times (to begin, when the write is done, when the flush is),
 * and wakes the loop once: for the log's small blocks that costs more than the write. Here the loop
 * starts the write itself and is woken once, when it is durable. RWF_NOWAIT, as the loop must not
 * stand still: what would wait (for the file's times to change, for room in the device's queue) is
 * refused by the kernel, at once or in the answer, and then a worker does it as ever.
 *
 * Not io_uring: container runtimes forbid it by default. Not libaio: four system calls need no
 * library. */
#include <errno.h>
#include <linux/fs.h>

#include "base/aio.h"
#include "base/assert.h"
#include "base/internal.h"

/* At the first submission: a program with many clients, which have no log, is not to use up the
 * machine's fs.aio-max-nr. */
static bool aio_is_open(struct env_uv *e)
{
    if (!e->aio_tried) {
        e->aio_tried = true;
        e->aio_open = aio_setup(ENV_UV_SUBMITS, &e->aio) == 0; /* else workers do all */
    }
    return e->aio_open;
}

void env_uv__submits_close(struct env_uv *e)
{
    assert(e->submits_out == 0);
    if (e->aio_open) {
        (void)aio_destroy(e->aio);
    }
}

static struct env_uv_submit *slot_take(struct env_uv *e)
{
    for (size_t i = 0; i < ENV_UV_SUBMITS; i++) {
        if (e->submits[i].work == NULL) {
            return &e->submits[i];
        }
    }
    return NULL;
}

bool env_uv__submit(struct env *env, struct env_work *work, struct env_file *file, const void *data,
                    size_t len, uint64_t offset, int *err)
{
    struct env_uv *e = env_uv_of(env);
    int fd = env_uv__file_submits(file, data, len, offset);
    struct env_uv_submit *s = fd >= 0 && aio_is_open(e) ? slot_take(e) : NULL;
    if (s == NULL) {
        return false;
    }
    struct iocb cb = {
        .aio_data = (uintptr_t)s,
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_fildes = (uint32_t)fd,
        .aio_buf = (uintptr_t)data,
        .aio_nbytes = len,
        .aio_offset = (int64_t)offset,
        .aio_rw_flags = RWF_NOWAIT,
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = (uint32_t)e->wake_fd,
    };
    struct iocb *list = &cb; /* copied by the kernel */
    if (aio_submit(e->aio, 1, &list) != 1) {
        if (errno == EOPNOTSUPP || errno == EINVAL) {
            env_uv__file_submits_never(file);
        }
        return false;
    }
    s->work = work;
    s->file = file;
    s->len = len;
    s->err = err;
    e->submits_out++;
    e->works_out++;
    return true;
}

static void submit_finish(struct env_uv *e, struct env_uv_submit *s, int64_t result)
{
    struct env_work *work = s->work;
    s->work = NULL;
    assert(e->submits_out > 0);
    e->submits_out--;
    if (result == -EOPNOTSUPP || result == -EINVAL) {
        env_uv__file_submits_never(s->file);
    }
    bool refused = result == -EAGAIN || result == -EOPNOTSUPP || result == -EINVAL;
    if (refused || (result >= 0 && (size_t)result < s->len)) {
        env_uv__queue_push(e, work);
        return;
    }
    *s->err = result < 0 ? err_from_errno((int)-result) : 0;
    assert(e->works_out > 0);
    e->works_out--;
    work->done(work);
}

void env_uv__submits_finish(struct env_uv *e)
{
    if (e->submits_out == 0) {
        return;
    }
    struct io_event events[ENV_UV_SUBMITS];
    const struct timespec none = {0};
    long count = aio_getevents(e->aio, 0, ENV_UV_SUBMITS, events, &none);
    for (long i = 0; i < count; i++) {
        struct env_uv_submit *s = (struct env_uv_submit *)(uintptr_t)events[i].data;
        submit_finish(e, s, events[i].res);
    }
}
