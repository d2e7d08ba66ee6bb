#include "base/forks.h"

#include <pthread.h>
#include <stdatomic.h>

static _Atomic unsigned forks; /* between the first one who asked and this process */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void after_fork(void)
{
    atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork);
}

unsigned forks_count(void)
{
    (void)pthread_once(&once, watch_forks);
    return atomic_load_explicit(&forks, memory_order_relaxed);
}
