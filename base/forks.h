/* Whether this process is still the one that made something with threads: the child of a fork() has
 * its memory, but none of its threads.
 *
 * Remember forks_count() when the thing is made; where it says another number, this is a child.
 * thread: any */
#ifndef CAIRN_BASE_FORKS_H
#define CAIRN_BASE_FORKS_H

unsigned forks_count(void);

#endif
