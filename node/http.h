/* Health, readiness and metrics over plain HTTP, by libmicrohttpd on a thread of its own.
 *
 *   GET /healthz  200 while the reactor turns (at most 5 s since its last sign of life), else 503
 *   GET /readyz   200 when the node runs and every shard here has a leader, else 503 and why
 *   GET /metrics  Prometheus text
 *
 * Serves a copy that the reactor publishes once a second; it can change nothing. */
#ifndef CAIRN_NODE_HTTP_H
#define CAIRN_NODE_HTTP_H

#include "node/node.h"

struct http;

/* address "host:port"; port 0 picks one. ERR_IO with a text. */
int http_open(const char *address, struct http **out, struct err_text *e);
int http_port(const struct http *http);
/* The newest state: a sign of life. */
void http_publish(struct http *http, const struct node_health *health);
void http_close(struct http *http); /* NULL is allowed */

/* Asks /readyz of a node at host:port, prints its answer; 0 if it is ready, else 1. Blocking, at
 * most 3 s. */
int http_probe(const char *address);

#endif
