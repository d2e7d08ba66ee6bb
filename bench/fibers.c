#include "bench/fibers.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <ucontext.h>

#define STACK_BYTES ((size_t)256 << 10)
#define EVENTS      256

struct fiber {
    ucontext_t context;
    unsigned id;
    bool ended;
    bool woken; /* something happened since it ran last */
};

static struct fiber *fibers;
static struct fiber *current;
static ucontext_t scheduler;
static unsigned fiber_count;
static void (*fiber_body)(unsigned id);
static int events_fd;
static pthread_t thread;

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void entry(void)
{
    fiber_body(current->id);
    current->ended = true;
}

static void resume(struct fiber *f)
{
    current = f;
    f->woken = false;
    must(swapcontext(&scheduler, &f->context) == 0, "swapcontext");
}

static void *run(void *arg)
{
    (void)arg;
    unsigned left = fiber_count;
    for (unsigned i = 0; i < fiber_count; i++) {
        resume(&fibers[i]);
        left -= fibers[i].ended;
    }
    while (left > 0) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(events_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct fiber *f = events[i].data.ptr;
            f->woken = true;
        }
        for (int i = 0; i < n; i++) {
            struct fiber *f = events[i].data.ptr;
            if (f->woken && !f->ended) {
                resume(f);
                left -= f->ended;
            }
        }
    }
    return NULL;
}

void fibers_start(unsigned count, void (*body)(unsigned id))
{
    fiber_count = count;
    fiber_body = body;
    fibers = calloc(count, sizeof *fibers);
    events_fd = epoll_create1(EPOLL_CLOEXEC);
    must(fibers != NULL && events_fd >= 0, "fibers");
    for (unsigned i = 0; i < count; i++) {
        struct fiber *f = &fibers[i];
        f->id = i;
        must(getcontext(&f->context) == 0, "getcontext");
        f->context.uc_stack.ss_sp = malloc(STACK_BYTES);
        f->context.uc_stack.ss_size = STACK_BYTES;
        f->context.uc_link = &scheduler;
        must(f->context.uc_stack.ss_sp != NULL, "a fiber's stack");
        makecontext(&f->context, entry, 0);
    }
    must(pthread_create(&thread, NULL, run, NULL) == 0, "the clients' thread");
}

void fibers_join(void)
{
    pthread_join(thread, NULL);
}

void fibers_watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = current};
    must(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0, "non-blocking");
    must(epoll_ctl(events_fd, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

void fibers_wait(void)
{
    must(swapcontext(&current->context, &scheduler) == 0, "swapcontext");
}
