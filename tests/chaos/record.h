/* Histories of transactions as processes write them that may be killed at any moment: a file for
 * each thread, one write() for each line, so that all lines but the last are whole.
 *
 *   b LEVEL NOW           begins; LEVEL: s(erializable), i (snapshot), o(lder version)
 *   r KEY VALUE...        read a list, in order
 *   a KEY VALUE           appends; written before the commit is asked for
 *   e OUTCOME NOW         ends: c(ommitted), a(borted: known to have had no effect), u(nknown)
 *
 * NOW: nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. A transaction
 * without an end is one whose process died: its outcome is unknown. */
#ifndef CAIRN_TESTS_CHAOS_RECORD_H
#define CAIRN_TESTS_CHAOS_RECORD_H

#include <stddef.h>
#include <stdint.h>

#define RECORD_VALUES_MAX 128u /* of a list */
#define RECORD_LINE_MAX   4096u

struct record {
    int fd;
    size_t len;
    char line[RECORD_LINE_MAX];
};

void record_open(struct record *r, const char *dir, unsigned process, unsigned thread);
void record_close(struct record *r);
void record_begin(struct record *r, char level);
void record_read(struct record *r, uint64_t key, const uint64_t *values, uint64_t count);
void record_append(struct record *r, uint64_t key, uint64_t value);
void record_end(struct record *r, char outcome);

uint64_t record_now_ns(void);

#endif
