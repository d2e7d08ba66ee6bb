/* Breadth-first exploration of the protocol's world (protocol.h): every state that can be reached,
 * each once, with the way that led to it. */
#ifndef CAIRN_TESTS_COORD_EXPLORER_H
#define CAIRN_TESTS_COORD_EXPLORER_H

#include "protocol.h"

struct explorer_result {
    uint64_t states, moves;
    uint32_t depth;
    bool complete;         /* all of them: states_max was enough */
    const char *violation; /* NULL: none; else the first one, by the shortest way */
};

/* states_max: memory, 32 bytes each. print: the way to a violation. */
struct explorer_result explore(const struct protocol *p, uint32_t states_max, bool print);

#endif
