/* Clients of a load generator as fibers on one thread: each is written as if it blocked, and lets
 * the others run where it would. A process whose clients are threads makes the servers pay for the
 * waking of one of them with each answer, which takes as much of a server's processor as a small
 * request does; over a network the servers never pay that. */
#ifndef CAIRN_BENCH_FIBERS_H
#define CAIRN_BENCH_FIBERS_H

/* Runs body(0) ... body(count - 1) on a thread of its own. Ends the process on failure. */
void fibers_start(unsigned count, void (*body)(unsigned id));
void fibers_join(void); /* until all have returned */
/* For fibers_wait(): `fd` is made non-blocking and belongs to the calling fiber. */
void fibers_watch(int fd);
/* Lets the others run until something has happened on one of the fiber's descriptors: it may be any
 * event, also one that was seen already, so the caller tries again in a loop. */
void fibers_wait(void);

#endif
