/* What the verbs of space share (stats.c, check.c, defrag.c, settings.c). Rows are as the nodes'
 * "shards" and "inspect" answer them, each with "node"; functions that return an exit code have
 * said already what went wrong. */
#ifndef CAIRN_CLI_SPACE_H
#define CAIRN_CLI_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/cli.h"

#define COLUMNS(table) table, sizeof table / sizeof table[0]
#define LONG_WAIT_MS   600000u /* what reads whole images */

/* 0 where there is no such number. */
uint64_t space_number(const json_t *object, const char *key);
void space_set_number(json_t *object, const char *key, uint64_t value);
/* part / whole in 1/1000. */
uint64_t space_permille(uint64_t part, uint64_t whole);
/* As text: "12.5 %", "1.0 MiB". */
void space_set_percent(json_t *object, const char *key, uint64_t value_permille);
void space_set_bytes(json_t *object, const char *key, uint64_t bytes);

#define SPACE_SHARDS_MAX 4096 /* of a heap */

/* NOTFOUND of the heap is the answer; other nodes that can't be asked are warned of, and counted.
 */
int space_judge_nodes(struct cli *cli, json_t *nodes, size_t *unreachable);
/* Until each shard of the heap has a leader that serves, but for a second at most: leadership that
 * moves, as it does when a heap is new, is nothing that is missing. Connects; 0 or CAIRN_E_*, said
 * already. */
int space_await_leaders(struct cli *cli, const char *heap);
/* Rows of leaders that must be all of the heap's. 7 if there are none, else a warning and *missing.
 */
int space_judge_leaders(struct cli *cli, const char *heap, const json_t *rows, uint64_t *missing);
/* The shards of a heap as their leaders have them: rows (given) of their statistics, with "shard",
 * "uid", "node", "image_bytes" and, if asked for, "classes"; in order of the index. *missing:
 * shards without a leader, warned of. */
int space_ask_leaders(struct cli *cli, const char *heap, bool classes, json_t **rows,
                      uint64_t *missing);
/* Asks every node to look at the images of a heap (takes args): rows (given) of all of them. */
int space_ask_images(struct cli *cli, json_t *args, json_t **rows, size_t *unreachable);
/* A checkpoint of every replica that can be asked (heap NULL: of all heaps): a row (given) of each.
 */
int space_checkpoint_all(struct cli *cli, const char *heap, json_t **rows, size_t *failed);
/* Adds the shares that people ask for:
 *   internal  of the blocks of objects, what wasn't asked for: headers and rounding
 *   external  of the free space, what the largest free run isn't
 *   metadata  of the arena */
void space_add_shares(json_t *row);

#endif
