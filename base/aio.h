/* Linux's AIO in four system calls: no library is needed for it. Nobody outside base/ includes
 * this. */
#ifndef CAIRN_BASE_AIO_H
#define CAIRN_BASE_AIO_H

#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline long aio_setup(unsigned events, aio_context_t *ctx)
{
    return syscall(SYS_io_setup, events, ctx);
}

static inline long aio_destroy(aio_context_t ctx)
{
    return syscall(SYS_io_destroy, ctx);
}

static inline long aio_submit(aio_context_t ctx, long count, struct iocb **cbs)
{
    return syscall(SYS_io_submit, ctx, count, cbs);
}

/* wait: NULL: until there are `min`. */
static inline long aio_getevents(aio_context_t ctx, long min, long count, struct io_event *events,
                                 const struct timespec *wait)
{
    return syscall(SYS_io_getevents, ctx, min, count, events, wait);
}

#endif
