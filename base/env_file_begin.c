/* Durable writes that are begun, and waited for later, by the same thread: what it does meanwhile
 * costs no time. Linux's AIO, as in env_uv_submit.c, where it is said why. The kernel may block in
 * the beginning: there is no loop here that would stand still. */
#include <errno.h>

#include "base/aio.h"
#include "base/assert.h"
#include "base/env_file.h"
#include "base/internal.h"

bool env_file_write_begin(struct env_file_write *w, struct env_file *file, const void *data,
                          size_t len, uint64_t offset)
{
    int fd = env_uv__file_submits(file, data, len, offset);
    if (fd < 0) {
        return false;
    }
    if (!w->tried) {
        w->tried = true;
        w->open = aio_setup(1, &w->ctx) == 0;
    }
    struct iocb cb = {
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_fildes = (uint32_t)fd,
        .aio_buf = (uintptr_t)data,
        .aio_nbytes = len,
        .aio_offset = (int64_t)offset,
    };
    struct iocb *list = &cb; /* copied by the kernel */
    w->len = len;
    return w->open && aio_submit(w->ctx, 1, &list) == 1;
}

bool env_file_write_end(struct env_file_write *w, int *err)
{
    struct io_event event;
    long count;
    do {
        count = aio_getevents(w->ctx, 1, 1, &event, NULL);
    } while (count == 0 || (count < 0 && errno == EINTR));
    assert(count == 1);
    *err = event.res < 0 ? err_from_errno((int)-event.res) : 0;
    return event.res != -EAGAIN && event.res != -EOPNOTSUPP && event.res != -EINVAL &&
           (event.res < 0 || (size_t)event.res == w->len);
}

void env_file_write_close(struct env_file_write *w)
{
    if (w->open) {
        (void)aio_destroy(w->ctx);
    }
}
