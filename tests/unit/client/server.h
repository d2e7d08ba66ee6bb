/* One node in a thread, over real TLS, with objects in plain memory: what the SDK's threads and
 * futures are tested against. It has heaps "h", of one shard, and "two"; to transactions it says
 * yes, and does nothing. */
#ifndef CAIRN_TESTS_UNIT_CLIENT_SERVER_H
#define CAIRN_TESTS_UNIT_CLIENT_SERVER_H

#include <stdbool.h>

#include "support/dir.h"

struct server;

/* Makes certificates under `dir` (ca.crt, n1.*, alice.*, and eve.* of another CA) and starts to
 * serve. */
struct server *server_start(const struct dir *dir);
void server_stop(struct server *server);
const char *server_endpoint(const struct server *server);
/* While it holds, requests wait unanswered. thread: any */
void server_hold(struct server *server, bool hold);
/* LEASE commands so far; slots promised with them that no transaction has named. thread: any */
uint64_t server_leases(const struct server *server);
uint64_t server_promised(const struct server *server);
/* The next so many are gone when somebody looks at them. thread: any */
void server_lose_leases(struct server *server, uint32_t count);

#endif
