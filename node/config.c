#include "node/config.h"

#include <ctype.h>
#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include "base/assert.h"
#include "base/log.h"

/* ---- what the file may hold: everything as text, converted by one table for file and environment
 * alike ---- */

struct raw_node {
    char *name, *number, *address;
};
struct raw {
    char *cluster, *name, *data_dir, *listen, *http, *shutdown_ms;
    struct {
        char *ca, *cert, *key;
    } tls;
    struct {
        char *election_ms, *heartbeat_ms;
    } raft;
    struct {
        char *leaders;
    } placement;
    struct {
        char *mode, *checkpoint_log_bytes, *log_bytes_max, *meta_bytes_max;
    } storage;
    struct {
        char *segment_bytes, *cache_bytes, *disk_bytes_max, *direct;
    } wal;
    struct {
        char *level, *format;
    } log;
    struct raw_node *nodes;
    unsigned nodes_count;
};

#define TEXT(type, member)                                                                         \
    CYAML_FIELD_STRING_PTR(#member, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, type, member, 0, 1024)
#define GROUP(member, fields)                                                                      \
    CYAML_FIELD_MAPPING(#member, CYAML_FLAG_OPTIONAL, struct raw, member, fields)
#define GROUP_TEXT(group, member)                                                                  \
    {                                                                                              \
        .key = #member,                                                                            \
        .data_offset =                                                                             \
            (uint32_t)(offsetof(struct raw, group.member) - offsetof(struct raw, group)),          \
        .value = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char, 0, 1024)},    \
    }

static const cyaml_schema_field_t tls_fields[] = {GROUP_TEXT(tls, ca), GROUP_TEXT(tls, cert),
                                                  GROUP_TEXT(tls, key), CYAML_FIELD_END};
static const cyaml_schema_field_t raft_fields[] = {GROUP_TEXT(raft, election_ms),
                                                   GROUP_TEXT(raft, heartbeat_ms), CYAML_FIELD_END};
static const cyaml_schema_field_t placement_fields[] = {GROUP_TEXT(placement, leaders),
                                                        CYAML_FIELD_END};
static const cyaml_schema_field_t storage_fields[] = {
    GROUP_TEXT(storage, mode), GROUP_TEXT(storage, checkpoint_log_bytes),
    GROUP_TEXT(storage, log_bytes_max), GROUP_TEXT(storage, meta_bytes_max), CYAML_FIELD_END};
static const cyaml_schema_field_t wal_fields[] = {
    GROUP_TEXT(wal, segment_bytes), GROUP_TEXT(wal, cache_bytes), GROUP_TEXT(wal, disk_bytes_max),
    GROUP_TEXT(wal, direct), CYAML_FIELD_END};
static const cyaml_schema_field_t log_fields[] = {GROUP_TEXT(log, level), GROUP_TEXT(log, format),
                                                  CYAML_FIELD_END};
static const cyaml_schema_field_t node_fields[] = {TEXT(struct raw_node, name),
                                                   TEXT(struct raw_node, number),
                                                   TEXT(struct raw_node, address), CYAML_FIELD_END};
static const cyaml_schema_value_t node_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_node, node_fields)};
static const cyaml_schema_field_t top_fields[] = {
    TEXT(struct raw, cluster),
    TEXT(struct raw, name),
    TEXT(struct raw, data_dir),
    TEXT(struct raw, listen),
    TEXT(struct raw, http),
    TEXT(struct raw, shutdown_ms),
    GROUP(tls, tls_fields),
    GROUP(raft, raft_fields),
    GROUP(placement, placement_fields),
    GROUP(storage, storage_fields),
    GROUP(wal, wal_fields),
    GROUP(log, log_fields),
    CYAML_FIELD_SEQUENCE("nodes", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct raw, nodes,
                         &node_schema, 0, NODES_MAX),
    CYAML_FIELD_END};
static const cyaml_schema_value_t top_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw, top_fields)};

/* ---- the table: path in the file, its text, its place, its bounds ---- */

enum setting_kind { SETTING_TEXT, SETTING_U32, SETTING_BYTES, SETTING_BOOL, SETTING_CHOICE };

struct setting {
    const char *path;
    size_t raw;
    enum setting_kind kind;
    size_t at, size;
    uint64_t min, max;
    const char *choices; /* "auto|disk|pmem": the index is stored as int */
};

#define RAW(member) offsetof(struct raw, member)
#define FIELD(member)                                                                              \
    offsetof(struct node_config, member), sizeof(((struct node_config *)0)->member)

static const struct setting settings[] = {
    {"cluster", RAW(cluster), SETTING_TEXT, FIELD(cluster), 0, 0, NULL},
    {"name", RAW(name), SETTING_TEXT, FIELD(name), 0, 0, NULL},
    {"data_dir", RAW(data_dir), SETTING_TEXT, FIELD(data_dir), 0, 0, NULL},
    {"listen", RAW(listen), SETTING_TEXT, FIELD(listen), 0, 0, NULL},
    {"http", RAW(http), SETTING_TEXT, FIELD(http), 0, 0, NULL},
    {"shutdown_ms", RAW(shutdown_ms), SETTING_U32, FIELD(shutdown_ms), 0, 600000, NULL},
    {"tls.ca", RAW(tls.ca), SETTING_TEXT, FIELD(ca_file), 0, 0, NULL},
    {"tls.cert", RAW(tls.cert), SETTING_TEXT, FIELD(cert_file), 0, 0, NULL},
    {"tls.key", RAW(tls.key), SETTING_TEXT, FIELD(key_file), 0, 0, NULL},
    {"raft.election_ms", RAW(raft.election_ms), SETTING_U32, FIELD(election_ms), 100, 60000, NULL},
    {"raft.heartbeat_ms", RAW(raft.heartbeat_ms), SETTING_U32, FIELD(heartbeat_ms), 10, 10000,
     NULL},
    {"placement.leaders", RAW(placement.leaders), SETTING_CHOICE, FIELD(leaders), 0, 0,
     "auto|spread|gather"},
    {"storage.mode", RAW(storage.mode), SETTING_CHOICE, FIELD(storage), 0, 0, "auto|disk|pmem"},
    {"storage.checkpoint_log_bytes", RAW(storage.checkpoint_log_bytes), SETTING_BYTES,
     FIELD(checkpoint_log_bytes), 64u << 10, 1ull << 40, NULL},
    {"storage.log_bytes_max", RAW(storage.log_bytes_max), SETTING_BYTES, FIELD(log_bytes_max),
     1u << 20, 1ull << 40, NULL},
    {"storage.meta_bytes_max", RAW(storage.meta_bytes_max), SETTING_BYTES, FIELD(meta_bytes_max),
     1u << 20, 1ull << 36, NULL},
    {"wal.segment_bytes", RAW(wal.segment_bytes), SETTING_BYTES, FIELD(wal_segment_bytes), 4u << 20,
     1u << 30, NULL},
    {"wal.cache_bytes", RAW(wal.cache_bytes), SETTING_BYTES, FIELD(wal_cache_bytes), 1u << 20,
     1ull << 36, NULL},
    {"wal.disk_bytes_max", RAW(wal.disk_bytes_max), SETTING_BYTES, FIELD(wal_disk_bytes_max),
     16u << 20, 1ull << 44, NULL},
    {"wal.direct", RAW(wal.direct), SETTING_BOOL, FIELD(wal_direct), 0, 0, NULL},
    {"log.level", RAW(log.level), SETTING_CHOICE, FIELD(log_level), 0, 0,
     "debug|info|warn|error|off"},
    {"log.format", RAW(log.format), SETTING_CHOICE, FIELD(log_json), 0, 0, "text|json"},
};

static int parse_number(const char *text, bool suffixes, uint64_t *out)
{
    char *end = NULL;
    if (!isdigit((unsigned char)text[0])) {
        return ERR_INVAL;
    }
    unsigned long long value = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (suffixes && *end != 0) {
        static const char units[] = "KMGT";
        const char *unit = strchr(units, toupper((unsigned char)*end));
        if (unit == NULL) {
            return ERR_INVAL;
        }
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
        if (strcmp(end, "iB") == 0) {
            end += 2;
        }
    }
    if (*end != 0 || (shift > 0 && value > UINT64_MAX >> shift)) {
        return ERR_INVAL;
    }
    *out = (uint64_t)value << shift;
    return 0;
}

static int parse_choice(const char *choices, const char *text)
{
    int index = 0;
    size_t len = strlen(text);
    for (const char *at = choices;; index++) {
        const char *end = strchr(at, '|');
        size_t n = end == NULL ? strlen(at) : (size_t)(end - at);
        if (n == len && memcmp(at, text, n) == 0) {
            return index;
        }
        if (end == NULL) {
            return -1;
        }
        at = end + 1;
    }
}

static int apply(const struct setting *s, const char *where, const char *text,
                 struct node_config *config, struct err_text *e)
{
    uint8_t *at = (uint8_t *)config + s->at;
    uint64_t value = 0;
    switch (s->kind) {
    case SETTING_TEXT:
        if (strlen(text) >= s->size) {
            return err_set(e, ERR_CONFIG, "%s: %s is longer than %zu bytes", where, s->path,
                           s->size - 1);
        }
        memset(at, 0, s->size);
        memcpy(at, text, strlen(text) + 1);
        return 0;
    case SETTING_U32:
    case SETTING_BYTES:
        if (parse_number(text, s->kind == SETTING_BYTES, &value) != 0 || value < s->min ||
            value > s->max) {
            return err_set(
                e, ERR_CONFIG, "%s: %s is \"%s\", but must be a whole number from %llu to %llu%s",
                where, s->path, text, (unsigned long long)s->min, (unsigned long long)s->max,
                s->kind == SETTING_BYTES ? " (K, M, G and T are understood)" : "");
        }
        if (s->size == sizeof(uint32_t)) {
            uint32_t narrow = (uint32_t)value;
            memcpy(at, &narrow, sizeof narrow);
        } else {
            memcpy(at, &value, sizeof value);
        }
        return 0;
    case SETTING_BOOL:
    case SETTING_CHOICE: {
        const char *choices = s->kind == SETTING_BOOL ? "false|true" : s->choices;
        int index = parse_choice(choices, text);
        if (index < 0) {
            return err_set(e, ERR_CONFIG, "%s: %s is \"%s\", but must be one of %s", where, s->path,
                           text, choices);
        }
        if (s->size == sizeof(bool)) {
            *(bool *)at = index != 0;
        } else {
            assert(s->size == sizeof(int));
            memcpy(at, &index, sizeof index);
        }
        return 0;
    }
    }
    return 0;
}

static void variable_name(const char *path, char out[64])
{
    size_t at = (size_t)snprintf(out, 64, "CAIRND_");
    for (; *path != 0 && at < 63; path++) {
        out[at++] = *path == '.' ? '_' : (char)toupper((unsigned char)*path);
    }
    out[at] = 0;
}

/* ---- nodes ---- */

static int add_node(struct node_config *config, const char *where, const char *name,
                    uint64_t number, const char *address, struct err_text *e)
{
    if (config->node_count == NODES_MAX) {
        return err_set(e, ERR_CONFIG, "%s: nodes has more than %d entries", where, NODES_MAX);
    }
    struct node_config_peer *p = &config->nodes[config->node_count];
    if (strlen(name) >= sizeof p->name || strlen(address) >= sizeof p->address) {
        return err_set(e, ERR_CONFIG, "%s: nodes: the name or address of \"%.40s\" is too long",
                       where, name);
    }
    if (number == 0 || number > 255) {
        return err_set(e, ERR_CONFIG, "%s: nodes: the number of %s must be from 1 to 255", where,
                       name);
    }
    p->number = (uint32_t)number;
    memcpy(p->name, name, strlen(name) + 1);
    memcpy(p->address, address, strlen(address) + 1);
    config->node_count++;
    return 0;
}

static int nodes_from_file(const char *path, const struct raw *raw, struct node_config *config,
                           struct err_text *e)
{
    for (unsigned i = 0; i < raw->nodes_count; i++) {
        const struct raw_node *n = &raw->nodes[i];
        uint64_t number = i + 1u;
        if (n->name == NULL || n->address == NULL) {
            return err_set(e, ERR_CONFIG, "%s: entry %u of nodes needs a name and an address", path,
                           i + 1);
        }
        if (n->number != NULL && parse_number(n->number, false, &number) != 0) {
            return err_set(e, ERR_CONFIG,
                           "%s: nodes: the number of %s is \"%s\", but must be from 1 to 255", path,
                           n->name, n->number);
        }
        int rv = add_node(config, path, n->name, number, n->address, e);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int nodes_from_variable(const char *text, struct node_config *config, struct err_text *e)
{
    char copy[2048];
    char *rest = NULL;
    uint64_t number = 0;
    if (strlen(text) >= sizeof copy) {
        return err_set(e, ERR_CONFIG, "CAIRND_NODES is longer than %zu bytes", sizeof copy - 1);
    }
    memcpy(copy, text, strlen(text) + 1);
    config->node_count = 0;
    memset(config->nodes, 0, sizeof config->nodes);
    for (char *item = strtok_r(copy, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) {
        char *equals = strchr(item, '=');
        if (equals == NULL) {
            return err_set(e, ERR_CONFIG, "CAIRND_NODES: \"%s\" must be NAME=HOST:PORT", item);
        }
        *equals = 0;
        int rv = add_node(config, "CAIRND_NODES", item, ++number, equals + 1, e);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

/* ---- validation ---- */

static bool valid_name(const char *name)
{
    if (!islower((unsigned char)name[0]) && !isdigit((unsigned char)name[0])) {
        return false;
    }
    for (const char *c = name; *c != 0; c++) {
        if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c) && *c != '-') {
            return false;
        }
    }
    return true;
}

static bool valid_address(const char *address)
{
    const char *colon = strrchr(address, ':');
    uint64_t port;
    return colon != NULL && colon != address && parse_number(colon + 1, false, &port) == 0 &&
           port <= 65535;
}

int node_config_validate(const struct node_config *config, struct err_text *e)
{
    const struct {
        const char *key, *value;
    } needed[] = {{"cluster", config->cluster},
                  {"name", config->name},
                  {"data_dir", config->data_dir},
                  {"listen", config->listen}};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (needed[i].value[0] == 0) {
            char variable[64];
            variable_name(needed[i].key, variable);
            return err_set(e, ERR_CONFIG, "%s is not set, neither in a file nor as %s",
                           needed[i].key, variable);
        }
    }
    for (const char *c = config->cluster; *c != 0; c++) {
        if (iscntrl((unsigned char)*c)) {
            return err_set(e, ERR_CONFIG, "cluster has a control character at byte %zu",
                           (size_t)(c - config->cluster) + 1);
        }
    }
    if (!valid_address(config->listen) || (config->http[0] != 0 && !valid_address(config->http))) {
        bool http = valid_address(config->listen);
        return err_set(e, ERR_CONFIG, "%s is \"%s\", but must be HOST:PORT",
                       http ? "http" : "listen", http ? config->http : config->listen);
    }
    if (config->node_count == 0) {
        return err_set(e, ERR_CONFIG,
                       "nodes is empty: it names every node of the cluster, this one included");
    }
    bool self = false;
    for (uint32_t i = 0; i < config->node_count; i++) {
        const struct node_config_peer *p = &config->nodes[i];
        if (!valid_name(p->name)) {
            return err_set(e, ERR_CONFIG,
                           "nodes: \"%s\" is not a valid name: lower-case letters, digits and -",
                           p->name);
        }
        if (!valid_address(p->address)) {
            return err_set(e, ERR_CONFIG,
                           "nodes: the address of %s is \"%s\", but must be HOST:PORT", p->name,
                           p->address);
        }
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(config->nodes[k].name, p->name) == 0 ||
                config->nodes[k].number == p->number) {
                return err_set(e, ERR_CONFIG, "nodes: %s and %s have the same name or number",
                               config->nodes[k].name, p->name);
            }
            if (strcmp(config->nodes[k].address, p->address) == 0) {
                return err_set(e, ERR_CONFIG, "nodes: %s and %s have the same address, %s",
                               config->nodes[k].name, p->name, p->address);
            }
        }
        self = self || strcmp(p->name, config->name) == 0;
    }
    if (!self) {
        return err_set(e, ERR_CONFIG, "name is %s, but nodes has no entry of that name",
                       config->name);
    }
    if (config->election_ms < 3 * config->heartbeat_ms) {
        return err_set(e, ERR_CONFIG,
                       "raft.election_ms (%u) must be at least three times raft.heartbeat_ms (%u)",
                       config->election_ms, config->heartbeat_ms);
    }
    if (config->wal_disk_bytes_max < 4 * config->wal_segment_bytes) {
        return err_set(
            e, ERR_CONFIG,
            "wal.disk_bytes_max (%llu) must be at least four times wal.segment_bytes (%llu)",
            (unsigned long long)config->wal_disk_bytes_max,
            (unsigned long long)config->wal_segment_bytes);
    }
    return 0;
}

/* ---- loading ---- */

/* libcyaml tells what is wrong, and where, only through its log: keep its first error line and its
 * place. */
struct yaml_words {
    char text[256];
    char place[96];
};

static void keep_words(cyaml_log_t level, void *ctx, const char *format, va_list args)
{
    struct yaml_words *words = ctx;
    char line[256];
    (void)vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = 0;
    const char *text = strncmp(line, "Load: ", 6) == 0 ? line + 6 : line;
    if (level >= CYAML_LOG_ERROR && words->text[0] == 0 && strstr(text, "Backtrace") == NULL) {
        (void)snprintf(words->text, sizeof words->text, "%.250s", text);
    } else if (words->place[0] == 0 && strstr(text, "line:") != NULL) {
        (void)snprintf(words->place, sizeof words->place, " (%.80s)", text + strspn(text, " "));
        const char *line_of = strstr(text, "line:");
        /* Of a key that it doesn't want it knows only where what stood before it began. */
        if (strncmp(words->text, "Unexpected key", 14) == 0 ||
            strncmp(words->text, "Mapping field already seen", 26) == 0) {
            (void)snprintf(words->place, sizeof words->place, " (at or soon after line: %d)",
                           (int)strtol(line_of + 5, NULL, 10));
        }
    }
}

/* What follows the file's first document, which is all that libcyaml reads, is a second one, or
 * nothing that YAML knows: either would be taken for settings by who wrote it. */
static int check_end(const char *path, yaml_parser_t *parser, struct err_text *e)
{
    unsigned documents = 0;
    for (bool ended = false; !ended;) {
        yaml_event_t event;
        if (yaml_parser_parse(parser, &event) == 0) {
            return err_set(e, ERR_CONFIG, "%s: %s (line: %zu)", path,
                           parser->problem != NULL ? parser->problem : "can't be read",
                           parser->problem_mark.line + 1);
        }
        size_t line = event.start_mark.line + 1;
        documents += event.type == YAML_DOCUMENT_START_EVENT;
        ended = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
        if (documents > 1) {
            return err_set(e, ERR_CONFIG,
                           "%s: a second YAML document begins at line %zu: all settings must stand "
                           "in one",
                           path, line);
        }
    }
    return 0;
}

static int check_one_document(const char *path, struct err_text *e)
{
    yaml_parser_t parser;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return err_set(e, ERR_NOTFOUND, "%s can't be read (%s)", path, strerror(errno));
    }
    int rv = ERR_NOMEM;
    if (yaml_parser_initialize(&parser) != 0) {
        yaml_parser_set_input_file(&parser, file);
        rv = check_end(path, &parser, e);
        yaml_parser_delete(&parser);
    }
    (void)fclose(file); /* it was only read */
    return rv;
}

static int load_file(const char *path, struct node_config *config, struct err_text *e)
{
    struct yaml_words words = {"", ""};
    const cyaml_config_t cyaml = {
        .log_fn = keep_words, .log_ctx = &words, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_INFO};
    struct raw *raw = NULL;
    if (access(path, R_OK) != 0) {
        return err_set(e, ERR_NOTFOUND, "%s can't be read (%s): give the file with --config FILE",
                       path, strerror(errno));
    }
    cyaml_err_t err = cyaml_load_file(path, &cyaml, &top_schema, (cyaml_data_t **)&raw, NULL);
    if (err != CYAML_OK) {
        return err_set(e, ERR_CONFIG, "%s: %s%s; deploy/cairnd.yaml has every key", path,
                       words.text[0] != 0 ? words.text : cyaml_strerror(err), words.place);
    }
    int rv = check_one_document(path, e);
    for (size_t i = 0; rv == 0 && raw != NULL && i < sizeof settings / sizeof settings[0]; i++) {
        const char *text = *(char **)((uint8_t *)raw + settings[i].raw);
        rv = text == NULL ? 0 : apply(&settings[i], path, text, config, e);
    }
    if (rv == 0 && raw != NULL) {
        rv = nodes_from_file(path, raw, config, e);
    }
    cyaml_free(&cyaml, &top_schema, raw, 0);
    return rv;
}

void config_warn(void)
{
    static const char *const others[] = {"CAIRND_CONFIG", "CAIRND_NODES"};
    for (char **at = environ; at != NULL && *at != NULL; at++) {
        char name[64];
        char variable[64];
        bool known = strncmp(*at, "CAIRND_", 7) != 0;
        (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(*at, "="), *at);
        for (size_t i = 0; !known && i < sizeof settings / sizeof settings[0]; i++) {
            variable_name(settings[i].path, variable);
            known = strcmp(variable, name) == 0;
        }
        for (size_t i = 0; !known && i < sizeof others / sizeof others[0]; i++) {
            known = strcmp(others[i], name) == 0;
        }
        if (!known) { /* refusing it would be too much: Kubernetes makes such of a service's name */
            log_warn("cairnd", "this variable sets nothing: no key has that name", "variable=%s",
                     name);
        }
    }
}

int config_load(const char *path, struct node_config *out, struct err_text *e)
{
    node_config_init(out);
    int rv = path == NULL ? 0 : load_file(path, out, e);
    for (size_t i = 0; rv == 0 && i < sizeof settings / sizeof settings[0]; i++) {
        char variable[64];
        variable_name(settings[i].path, variable);
        const char *text = getenv(variable);
        rv = text == NULL ? 0 : apply(&settings[i], variable, text, out, e);
    }
    const char *nodes = getenv("CAIRND_NODES");
    if (rv == 0 && nodes != NULL) {
        rv = nodes_from_variable(nodes, out, e);
    }
    if (rv == 0) {
        rv = node_config_validate(out, e);
    }
    if (rv == 0 && (out->ca_file[0] == 0 || out->cert_file[0] == 0 || out->key_file[0] == 0)) {
        return err_set(e, ERR_CONFIG,
                       "tls.ca, tls.cert and tls.key must be set: there is no plaintext mode "
                       "(scripts/certs makes certificates for development)");
    }
    return rv;
}
