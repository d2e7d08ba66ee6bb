/* The real environment: libuv for the loop, timers, threads and files. The transport entries of its
 * table answer ERR_UNSUPPORTED until rpc/tls.c has been attached (base/ knows nothing of TLS). */
#ifndef CAIRN_BASE_ENV_UV_H
#define CAIRN_BASE_ENV_UV_H

#include <uv.h>

#include "base/env.h"

/* One reactor. *out is given (free with env_uv_close after the loop has ended). ERR_NOMEM, ERR_IO.
 */
int env_uv_open(struct env **out);
/* Runs the loop on the calling thread, in which SIGPIPE is blocked from then on, until
 * env_uv_stop(). */
void env_uv_run(struct env *env);
/* Makes env_uv_run() return after the current turn. thread: any */
void env_uv_stop(struct env *env);
/* All timers stopped, works done, connections and listeners closed before. */
void env_uv_close(struct env *env);

/* For the transport: the loop, a mutable copy of the table (whose transport entries it fills), and
 * its own pointer. */
uv_loop_t *env_uv_loop(struct env *env);
struct env_ops *env_uv_ops(struct env *env);
void env_uv_set_transport(struct env *env, void *transport);
void *env_uv_transport(struct env *env);

#endif
