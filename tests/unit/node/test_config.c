/* cairnd's configuration: what is accepted, and the words in which everything else is refused. */
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "node/config.h"
#include "support/dir.h"
#include "support/test.h"

static struct dir dir;
static struct node_config config;
static struct err_text e;

static int setup(void **state)
{
    (void)state;
    dir_open(&dir);
    /* Nothing of the caller's shell may take part. */
    for (char **at = environ; *at != NULL;) {
        if (strncmp(*at, "CAIRND_", 7) == 0) {
            char name[128];
            (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(*at, "="), *at);
            (void)unsetenv(name);
            at = environ;
        } else {
            at++;
        }
    }
    memset(&e, 0, sizeof e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    dir_close(&dir);
    return 0;
}

#define HEAD  "cluster: test\nname: n1\ndata_dir: /var/lib/cairn/data\nlisten: 127.0.0.1:7420\n"
#define TLS   "tls: {ca: ca.crt, cert: n1.crt, key: n1.key}\n"
#define NODES "nodes:\n  - {name: n1, address: \"a:1\"}\n  - {name: n2, address: \"b:2\"}\n"

static int load(const char *text)
{
    char path[DIR_PATH_BYTES];
    dir_path(&dir, "cairnd.yaml", path);
    dir_remove(path);
    unlink(path);
    dir_file_write(path, 0, text, strlen(text));
    memset(&e, 0, sizeof e);
    return config_load(path, &config, &e);
}

static void refused(const char *text, const char *words)
{
    int rv = load(text);
    if (rv != ERR_CONFIG || strstr(e.text, words) == NULL) {
        print_error("wanted \"%s\", got %d: \"%s\"\n", words, rv, e.text);
    }
    assert_int_equal(rv, ERR_CONFIG);
    assert_non_null(strstr(e.text, words));
}

static void a_minimal_file_gets_the_defaults(void **state)
{
    (void)state;
    assert_int_equal(load(HEAD TLS NODES), 0);
    assert_string_equal(config.cluster, "test");
    assert_string_equal(config.name, "n1");
    assert_string_equal(config.data_dir, "/var/lib/cairn/data");
    assert_string_equal(config.listen, "127.0.0.1:7420");
    assert_string_equal(config.http, "");
    assert_string_equal(config.key_file, "n1.key");
    assert_int_equal(config.node_count, 2);
    assert_int_equal(config.nodes[0].number, 1);
    assert_int_equal(config.nodes[1].number, 2);
    assert_string_equal(config.nodes[1].address, "b:2");
    assert_int_equal(config.election_ms, 1000);
    assert_int_equal(config.heartbeat_ms, 100);
    assert_int_equal(config.leaders, REPLICA_LEADERS_AUTO);
    assert_int_equal(config.storage, NODE_STORAGE_AUTO);
    assert_int_equal(config.wal_segment_bytes, 16u << 20);
    assert_true(config.wal_direct);
    assert_int_equal(config.log_level, LOG_INFO);
    assert_false(config.log_json);
}

static void the_example_file_is_valid_and_states_the_defaults(void **state)
{
    (void)state;
    assert_int_equal(config_load(EXAMPLE, &config, &e), 0);
    struct node_config defaults;
    node_config_init(&defaults);
    assert_int_equal(config.node_count, 3);
    assert_string_equal(config.ca_file, "/etc/cairn/ca.crt");
    assert_string_equal(config.cert_file, "/etc/cairn/n1.crt");
    assert_string_equal(config.key_file, "/etc/cairn/n1.key");
    assert_string_equal(config.listen, defaults.listen);
    assert_int_equal(config.election_ms, defaults.election_ms);
    assert_int_equal(config.heartbeat_ms, defaults.heartbeat_ms);
    assert_int_equal(config.leaders, defaults.leaders);
    assert_int_equal(config.storage, defaults.storage);
    assert_int_equal(config.checkpoint_log_bytes, defaults.checkpoint_log_bytes);
    assert_int_equal(config.log_bytes_max, defaults.log_bytes_max);
    assert_int_equal(config.meta_bytes_max, defaults.meta_bytes_max);
    assert_int_equal(config.wal_segment_bytes, defaults.wal_segment_bytes);
    assert_int_equal(config.wal_cache_bytes, defaults.wal_cache_bytes);
    assert_int_equal(config.wal_disk_bytes_max, defaults.wal_disk_bytes_max);
    assert_int_equal(config.wal_direct, defaults.wal_direct);
    assert_int_equal(config.shutdown_ms, defaults.shutdown_ms);
    assert_int_equal(config.log_level, defaults.log_level);
    assert_int_equal(config.log_json, defaults.log_json);
}

static void sizes_take_suffixes(void **state)
{
    (void)state;
    assert_int_equal(
        load(HEAD TLS NODES
             "wal: {segment_bytes: 8M, disk_bytes_max: 2GiB, "
             "cache_bytes: 1048576}\nstorage: {meta_bytes_max: 2048k, log_bytes_max: 64M}\n"),
        0);
    assert_int_equal(config.wal_segment_bytes, 8u << 20);
    assert_int_equal(config.wal_disk_bytes_max, 2ull << 30);
    assert_int_equal(config.wal_cache_bytes, 1u << 20);
    assert_int_equal(config.meta_bytes_max, 2u << 20);
    assert_int_equal(config.log_bytes_max, 64u << 20);
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    assert_int_equal(config_load("/nonexistent/cairnd.yaml", &config, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.text, "/nonexistent/cairnd.yaml can't be read"));
}

static void broken_yaml_says_where(void **state)
{
    (void)state;
    refused("cluster: [1,\n", "cairnd.yaml: ");
    refused("- a list\n", "cairnd.yaml: ");
    refused(HEAD TLS NODES "wal: 7\n", "line:");
}

static void an_unknown_key_is_named_with_its_line(void **state)
{
    (void)state;
    refused(HEAD TLS NODES "elections_ms: 5\n", "elections_ms");
    assert_non_null(strstr(e.text, "(at or soon after line: 7)")); /* it is the ninth */
    assert_non_null(strstr(e.text, "deploy/cairnd.yaml"));
    refused(HEAD TLS NODES "raft: {elections_ms: 5}\n", "elections_ms");
    refused(HEAD TLS "nodes:\n  - {name: n1, adress: \"a:1\"}\n", "adress");
}

static void numbers_are_checked_against_their_bounds(void **state)
{
    (void)state;
    refused(HEAD TLS NODES "raft: {election_ms: 99}\n",
            "raft.election_ms is \"99\", but must be a whole number from 100 to 60000");
    refused(HEAD TLS NODES "raft: {election_ms: -1}\n", "raft.election_ms is \"-1\"");
    refused(HEAD TLS NODES "raft: {election_ms: 1s}\n", "raft.election_ms is \"1s\"");
    refused(HEAD TLS NODES "raft: {election_ms: 1K}\n", "raft.election_ms is \"1K\"");
    refused(HEAD TLS NODES "shutdown_ms: 600001\n", "shutdown_ms is \"600001\"");
    refused(
        HEAD TLS NODES "wal: {segment_bytes: 3M}\n",
        "wal.segment_bytes is \"3M\", but must be a whole number from 4194304 to 1073741824 (K, "
        "M, G and T are understood)");
    refused(HEAD TLS NODES "wal: {segment_bytes: 18446744073709551615G}\n", "wal.segment_bytes");
    refused(HEAD TLS NODES "wal: {segment_bytes: 99999999999999999999999}\n", "wal.segment_bytes");
    refused(HEAD TLS NODES "wal: {segment_bytes: 16MB}\n", "wal.segment_bytes is \"16MB\"");
}

static void choices_are_listed(void **state)
{
    (void)state;
    refused(HEAD TLS NODES "placement: {leaders: all}\n",
            "placement.leaders is \"all\", but must be one of auto|spread|gather");
    assert_int_equal(load(HEAD TLS NODES "placement: {leaders: gather}\n"), 0);
    assert_int_equal(config.leaders, REPLICA_LEADERS_GATHER);
    refused(HEAD TLS NODES "storage: {mode: ram}\n",
            "storage.mode is \"ram\", but must be one of auto|disk|pmem");
    refused(HEAD TLS NODES "wal: {direct: yes}\n",
            "wal.direct is \"yes\", but must be one of false|true");
    refused(HEAD TLS NODES "log: {level: loud}\n", "debug|info|warn|error|off");
    refused(HEAD TLS NODES "log: {format: xml}\n", "text|json");
}

static void what_is_needed_and_missing_is_named(void **state)
{
    (void)state;
    refused("", "cluster is not set, neither in a file nor as CAIRND_CLUSTER");
    refused("cluster: \"a\\nb\"\nname: n1\ndata_dir: /d\nlisten: \"a:1\"\n" TLS NODES,
            "cluster has a control character at byte 2");
    refused("name: n1\ndata_dir: /d\n" TLS NODES, "cluster is not set");
    refused("cluster: c\ndata_dir: /d\n" TLS NODES, "name is not set");
    refused("cluster: c\nname: n1\n" TLS NODES, "data_dir is not set");
    refused(HEAD TLS, "nodes is empty");
    refused(HEAD NODES, "there is no plaintext mode");
    refused(HEAD "tls: {ca: a, cert: b}\n" NODES, "tls.ca, tls.cert and tls.key must be set");
}

static void addresses_are_host_and_port(void **state)
{
    (void)state;
    refused(HEAD TLS NODES "http: 9631\n", "http is \"9631\", but must be HOST:PORT");
    refused("cluster: c\nname: n1\ndata_dir: /d\nlisten: here\n" TLS NODES,
            "listen is \"here\", but must be HOST:PORT");
    refused(HEAD TLS "nodes:\n  - {name: n1, address: \"a:70000\"}\n",
            "nodes: the address of n1 is \"a:70000\", but must be HOST:PORT");
    refused(HEAD TLS "nodes:\n  - {name: n1, address: \":1\"}\n", "but must be HOST:PORT");
}

static void the_list_of_nodes_is_checked(void **state)
{
    (void)state;
    refused(HEAD TLS "nodes:\n  - {name: n2, address: \"a:1\"}\n",
            "name is n1, but nodes has no entry of that name");
    refused(HEAD TLS "nodes:\n  - {name: n1, address: \"a:1\"}\n  - {name: n1, address: \"b:1\"}\n",
            "n1 and n1 have the same name or number");
    refused(HEAD TLS "nodes:\n  - {name: n1, number: 2, address: \"a:1\"}\n"
                     "  - {name: n2, number: 2, address: \"b:1\"}\n",
            "n1 and n2 have the same name or number");
    refused(HEAD TLS "nodes:\n  - {name: n1, address: \"a:1\"}\n  - {name: n2, address: \"a:1\"}\n",
            "n1 and n2 have the same address, a:1");
    refused(HEAD TLS "nodes:\n  - {name: N1, address: \"a:1\"}\n", "\"N1\" is not a valid name");
    refused(HEAD TLS "nodes:\n  - {name: -1, address: \"a:1\"}\n", "\"-1\" is not a valid name");
    refused(HEAD TLS "nodes:\n  - {name: n1, number: 0, address: \"a:1\"}\n",
            "the number of n1 must be from 1 to 255");
    refused(HEAD TLS "nodes:\n  - {name: n1, number: 256, address: \"a:1\"}\n", "from 1 to 255");
    refused(HEAD TLS "nodes:\n  - {name: n1, number: one, address: \"a:1\"}\n",
            "the number of n1 is \"one\"");
    refused(HEAD TLS "nodes:\n  - {name: n1}\n", "entry 1 of nodes needs a name and an address");
    refused(HEAD TLS "nodes:\n  - {name: "
                     "n123456789012345678901234567890123456789, address: \"a:1\"}\n",
            "is too long");
}

static void more_nodes_than_the_limit_are_refused(void **state)
{
    (void)state;
    char text[1024];
    size_t at = (size_t)snprintf(text, sizeof text, HEAD TLS "nodes:\n");
    for (int i = 1; i <= NODES_MAX + 1; i++) {
        at += (size_t)snprintf(text + at, sizeof text - at, "  - {name: n%d, address: \"a:%d\"}\n",
                               i, i);
    }
    assert_int_equal(load(text), ERR_CONFIG);
    char list[1024] = "";
    at = 0;
    for (int i = 1; i <= NODES_MAX + 1; i++) {
        at += (size_t)snprintf(list + at, sizeof list - at, "n%d=a:%d,", i, i);
    }
    setenv("CAIRND_NODES", list, 1);
    refused(HEAD TLS NODES, "CAIRND_NODES: nodes has more than 9 entries");
    unsetenv("CAIRND_NODES");
}

/* libcyaml reads the first one, and says nothing of the rest. */
static void a_second_document_is_refused(void **state)
{
    (void)state;
    refused(HEAD TLS NODES "---\nraft: {election_ms: 3000}\n",
            "a second YAML document begins at line 9");
    refused(HEAD TLS NODES "...\n# behind the end\n--- {name: n2}\n",
            "a second YAML document begins at line 11");
    refused(HEAD TLS NODES "...\nraft: {election_ms: 3000}\n", "expected <document start>");
    refused(HEAD TLS NODES "...\n- {\n", "cairnd.yaml");
    assert_int_equal(load("---\n" HEAD TLS NODES "...\n# and nothing more\n"), 0);
}

static void values_that_contradict_each_other_are_refused(void **state)
{
    (void)state;
    refused(HEAD TLS NODES "raft: {election_ms: 200, heartbeat_ms: 100}\n",
            "raft.election_ms (200) must be at least three times raft.heartbeat_ms (100)");
    refused(HEAD TLS NODES "wal: {segment_bytes: 64M, disk_bytes_max: 128M}\n",
            "wal.disk_bytes_max (134217728) must be at least four times wal.segment_bytes "
            "(67108864)");
}

static void texts_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    refused("name: n1\ndata_dir: /d\ncluster: "
            "c2345678901234567890123456789012345678901234567890123456789012345\n" TLS NODES,
            "cluster is longer than 63 bytes");
}

static void the_environment_overrides_the_file(void **state)
{
    (void)state;
    setenv("CAIRND_RAFT_ELECTION_MS", "2500", 1);
    setenv("CAIRND_DATA_DIR", "/elsewhere", 1);
    setenv("CAIRND_LOG_FORMAT", "json", 1);
    setenv("CAIRND_WAL_DIRECT", "false", 1);
    setenv("CAIRND_NODES", "n1=x:1,n9=y:2,n3=z:3", 1);
    assert_int_equal(load(HEAD TLS NODES "raft: {election_ms: 3000}\n"), 0);
    assert_int_equal(config.election_ms, 2500);
    assert_string_equal(config.data_dir, "/elsewhere");
    assert_true(config.log_json);
    assert_false(config.wal_direct);
    assert_int_equal(config.node_count, 3);
    assert_string_equal(config.nodes[1].name, "n9");
    assert_int_equal(config.nodes[1].number, 2);
    assert_string_equal(config.nodes[1].address, "y:2");
}

static void the_environment_alone_is_enough(void **state)
{
    (void)state;
    setenv("CAIRND_CLUSTER", "c", 1);
    setenv("CAIRND_NAME", "n1", 1);
    setenv("CAIRND_DATA_DIR", "/d", 1);
    setenv("CAIRND_TLS_CA", "ca", 1);
    setenv("CAIRND_TLS_CERT", "cert", 1);
    setenv("CAIRND_TLS_KEY", "key", 1);
    setenv("CAIRND_NODES", "n1=a:1", 1);
    assert_int_equal(config_load(NULL, &config, &e), 0);
    assert_string_equal(config.cert_file, "cert");
    assert_string_equal(config.listen, "0.0.0.0:7420");
}

static void a_bad_variable_is_named(void **state)
{
    (void)state;
    setenv("CAIRND_RAFT_ELECTION_MS", "soon", 1);
    refused(HEAD TLS NODES, "CAIRND_RAFT_ELECTION_MS: raft.election_ms is \"soon\"");
    unsetenv("CAIRND_RAFT_ELECTION_MS");
    setenv("CAIRND_NODES", "n1", 1);
    refused(HEAD TLS NODES, "CAIRND_NODES: \"n1\" must be NAME=HOST:PORT");
    char *big = malloc(4096);
    assert_non_null(big);
    memset(big, 'n', 4095);
    big[4095] = 0;
    setenv("CAIRND_NODES", big, 1);
    refused(HEAD TLS NODES, "CAIRND_NODES is longer than");
    setenv("CAIRND_DATA_DIR", big, 1);
    refused(HEAD TLS NODES, "CAIRND_DATA_DIR: data_dir is longer than 1023 bytes");
    free(big);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_minimal_file_gets_the_defaults),
        TEST(the_example_file_is_valid_and_states_the_defaults),
        TEST(sizes_take_suffixes),
        TEST(a_missing_file_is_named),
        TEST(broken_yaml_says_where),
        TEST(an_unknown_key_is_named_with_its_line),
        TEST(numbers_are_checked_against_their_bounds),
        TEST(choices_are_listed),
        TEST(what_is_needed_and_missing_is_named),
        TEST(addresses_are_host_and_port),
        TEST(the_list_of_nodes_is_checked),
        TEST(more_nodes_than_the_limit_are_refused),
        TEST(a_second_document_is_refused),
        TEST(values_that_contradict_each_other_are_refused),
        TEST(texts_that_do_not_fit_are_refused),
        TEST(the_environment_overrides_the_file),
        TEST(the_environment_alone_is_enough),
        TEST(a_bad_variable_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
