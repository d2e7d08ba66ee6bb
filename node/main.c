/* cairnd: one node of a cluster. */
#include <argp.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "base/env_uv.h"
#include "base/log.h"
#include "node/config.h"
#include "node/http.h"
#include "node/node.h"
#include "rpc/tls.h"

#ifndef CAIRN_VERSION
#define CAIRN_VERSION "0.1.0"
#endif
/* Visible, although this program is built with hidden symbols: libc finds it by its name. */
__attribute__((visibility("default"))) const char *argp_program_version = "cairnd " CAIRN_VERSION;

#define TRIM_CONNECTIONS 32u          /* fewer don't hold enough */
#define TRIM_PAD_BYTES   (512u << 10) /* stay for what comes next */

struct process {
    struct env *env;
    struct node *node;
    struct http *http;
    struct env_timer publish;
    uint64_t connections;      /* a second ago */
    uint64_t connections_most; /* since memory was given back */
    uv_signal_t signals[3];
    int exit_code;
    bool stopping;
};

struct options {
    const char *config;
    const char *probe;
    bool check;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case 'c':
        options->config = arg;
        return 0;
    case 'k':
        options->check = true;
        return 0;
    case 'p':
        options->probe = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option option_table[] = {
    {"config", 'c', "FILE", 0,
     "configuration (YAML); default $CAIRND_CONFIG, else the environment alone", 0},
    {"check-config", 'k', NULL, 0, "validate the configuration, say what is wrong, and exit 0 or 2",
     0},
    {"probe", 'p', "HOST:PORT", 0,
     "ask a running node's /readyz there and exit 0 or 1 (for health checks in images without "
     "curl)",
     0},
    {0}};
static const struct argp arguments = {option_table,
                                      parse_option,
                                      NULL,
                                      "A node of a Cairn cluster. Stops gracefully on SIGTERM; "
                                      "loads its certificates again on SIGHUP.",
                                      NULL,
                                      NULL,
                                      NULL};

/* What closed connections held lies between what is still in use, and goes back to the system only
 * on request: when many have gone, and those that are left stay. */
static void give_memory_back(struct process *process, uint64_t connections)
{
    bool steady = connections == process->connections;
    process->connections = connections;
    if (connections > process->connections_most) {
        process->connections_most = connections;
    } else if (steady && process->connections_most - connections >= TRIM_CONNECTIONS) {
        uint64_t began_ns = uv_hrtime();
        (void)malloc_trim(TRIM_PAD_BYTES);
        log_debug("cairnd", "memory given back", "connections_gone=%llu us=%llu",
                  (unsigned long long)(process->connections_most - connections),
                  (unsigned long long)((uv_hrtime() - began_ns) / 1000));
        process->connections_most = connections;
    }
}

static void publish(struct env_timer *timer)
{
    struct process *process = container_of(timer, struct process, publish);
    struct node_health health;
    node_get_health(process->node, &health);
    if (process->http != NULL) {
        http_publish(process->http, &health);
    }
    give_memory_back(process, health.connections);
    env_timer_start_in_ms(process->env, timer, 1000);
}

static void stopped(void *arg)
{
    struct process *process = arg;
    log_info("cairnd", "stopped", "");
    env_uv_stop(process->env);
}

static void on_fatal(void *arg, struct node *node, int err, const char *text)
{
    struct process *process = arg;
    (void)node;
    fprintf(stderr, "cairnd: %s: %s\n", err_name(err), text);
    process->exit_code = 1;
    if (process->node == NULL) {
        return; /* still inside node_open(), which fails or is undone by main */
    }
    /* Nothing more may be promised by this process: no orderly end, the log would only be written
     * to again. */
    exit(1);
}
static const struct node_cbs callbacks = {.on_fatal = on_fatal};

static void on_signal(uv_signal_t *handle, int number)
{
    struct process *process = handle->data;
    if (number == SIGHUP) {
        struct err_text e = {""};
        int rv = tls_reload(process->env, &e);
        if (rv == 0) {
            log_info("cairnd", "certificates loaded again", "");
        } else {
            log_error("cairnd", "certificates not reloaded, the old ones stay in use",
                      "cause=\"%s\"", e.text);
        }
        return;
    }
    if (process->stopping) {
        log_warn("cairnd", "second signal: stopping at once", "");
        exit(1);
    }
    process->stopping = true;
    env_timer_stop(process->env, &process->publish);
    node_stop(process->node, stopped, process);
}

/* One malloc arena: the reactor allocates, workers hardly do, and an arena per thread would keep
 * its own freed memory. Large blocks go back to the system when they are freed. */
static void save_memory(void)
{
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    mallopt(M_TRIM_THRESHOLD, 512 << 10);
}

/* Every connection and every shard's files take descriptors: use what the system lets us have. */
static void raise_limits(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    signal(SIGPIPE, SIG_IGN);
}

/* Which images are its own a node knows by its key: that is nobody else's, and comes along where
 * the node is started in another container, or on another machine. Containers have no machine-id,
 * or that of the image that they were made of. */
static void know_own_images(struct env *env)
{
    uint64_t secret = tls_secret(env);
    env->host = secret != 0 ? secret : env->host;
}

static int run(const struct node_config *config)
{
    struct process process = {.publish = {.cb = publish}};
    struct err_text e = {""};

    int rv = env_uv_open(&process.env);
    if (rv != 0) {
        fprintf(stderr, "cairnd: can't start the event loop: %s\n", err_why(rv));
        return 1;
    }
    struct tls_opts tls = {config->ca_file, config->cert_file, config->key_file};
    rv = tls_attach(process.env, &tls, &e);
    if (rv == 0) {
        struct env_peer self;
        int64_t not_after = 0;
        rv = tls_self(process.env, &self, &not_after);
        if (rv == 0 && (self.role != ENV_ROLE_NODE || strcmp(self.name, config->name) != 0)) {
            rv = err_set(&e, ERR_CONFIG,
                         "%s is the certificate of %s \"%s\", but this node's name is %s",
                         config->cert_file, self.role == ENV_ROLE_NODE ? "node" : "user", self.name,
                         config->name);
        }
    }
    if (rv == 0) {
        know_own_images(process.env);
    }
    if (rv == 0 && config->http[0] != 0) {
        rv = http_open(config->http, &process.http, &e);
    }
    if (rv == 0) {
        rv = node_open(process.env, config, &callbacks, &process, &process.node, &e);
    }
    if (rv != 0) {
        fprintf(stderr, "cairnd: %s: %s\n", err_name(rv), e.text);
        http_close(process.http);
        return rv == ERR_CONFIG ? 2 : 1;
    }
    log_info("cairnd", "listening", "node=%s address=%s port=%d http=%s version=%s", config->name,
             config->listen, node_port(process.node), config->http[0] != 0 ? config->http : "-",
             CAIRN_VERSION);
    static const int numbers[3] = {SIGTERM, SIGINT, SIGHUP};
    for (int i = 0; i < 3; i++) {
        uv_signal_init(env_uv_loop(process.env), &process.signals[i]);
        process.signals[i].data = &process;
        uv_signal_start(&process.signals[i], on_signal, numbers[i]);
    }
    env_timer_start_in_ms(process.env, &process.publish, 1);
    env_uv_run(process.env);

    for (int i = 0; i < 3; i++) {
        uv_close((uv_handle_t *)&process.signals[i], NULL);
    }
    node_free(process.node);
    http_close(process.http);
    tls_detach(process.env);
    env_uv_close(process.env);
    return process.exit_code;
}

int main(int argc, char **argv)
{
    struct options options = {getenv("CAIRND_CONFIG"), NULL, false};
    struct node_config config;
    struct err_text e = {""};

    argp_err_exit_status = 2;
    argp_parse(&arguments, argc, argv, 0, NULL, &options);
    if (options.probe != NULL) {
        return http_probe(options.probe);
    }
    int rv = config_load(options.config, &config, &e);
    if (rv != 0) {
        fprintf(stderr, "cairnd: %s: %s\n", err_name(rv), e.text);
        return 2;
    }
    if (options.check) {
        config_warn();
        printf("%s: ok: node %s of cluster %s with %u nodes\n",
               options.config == NULL ? "environment" : options.config, config.name, config.cluster,
               config.node_count);
        return 0;
    }
    log_set_level((enum log_level)config.log_level);
    log_set_json(config.log_json);
    log_set_tag(config.name);
    config_warn();
    raise_limits();
    save_memory();
    return run(&config);
}
