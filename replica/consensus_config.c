/* Configurations: the bytes of an ENTRY_CHANGE are libraft's own encoding, because libraft reads
 * them, but written and read here: its decoder trusts lengths, and we accept exactly one form of
 * each configuration. */
#include "base/assert.h"
#include "base/err.h"
#include "replica/consensus_internal.h"

#include <string.h>

#define CONFIG_FORMAT     1
#define CONFIG_HEAD_BYTES 9 /* format, count */

void consensus__address(uint64_t id, char out[ADDRESS_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 15; i >= 0; i--) {
        out[i] = digits[id & 15];
        id >>= 4;
    }
    out[16] = '\0';
}

uint32_t consensus__voters(const struct consensus_config *config)
{
    uint32_t voters = 0;
    for (uint32_t i = 0; i < config->count; i++) {
        voters += config->servers[i].role == CONSENSUS_VOTER;
    }
    return voters;
}

bool consensus__config_valid(const struct consensus_config *config)
{
    if (config->count == 0 || config->count > NODES_MAX * 2) {
        return false;
    }
    for (uint32_t i = 0; i < config->count; i++) {
        const struct consensus_server *s = &config->servers[i];
        if (s->id == 0 || (unsigned)s->role > CONSENSUS_SPARE) {
            return false;
        }
        for (uint32_t j = 0; j < i; j++) {
            if (config->servers[j].id == s->id) {
                return false;
            }
        }
    }
    return consensus__voters(config) > 0;
}

static const struct consensus_server *find(const struct consensus_config *config, uint64_t id)
{
    for (uint32_t i = 0; i < config->count; i++) {
        if (config->servers[i].id == id) {
            return &config->servers[i];
        }
    }
    return NULL;
}

int consensus__config_edit(const struct consensus_config *now, struct consensus_config *next)
{
    struct consensus_config out = {.count = 0};
    uint32_t changes = 0;
    for (uint32_t i = 0; i < now->count; i++) {
        const struct consensus_server *s = find(next, now->servers[i].id);
        if (s == NULL) {
            changes++;
            continue;
        }
        changes += s->role != now->servers[i].role;
        out.servers[out.count++] = *s;
    }
    for (uint32_t i = 0; i < next->count; i++) {
        if (find(now, next->servers[i].id) == NULL) {
            changes++;
            if (out.count == NODES_MAX * 2) {
                return ERR_INVAL;
            }
            out.servers[out.count++] = next->servers[i];
        }
    }
    if (changes != 1) {
        return ERR_INVAL;
    }
    *next = out;
    return 0;
}

int consensus_config_encode(const struct consensus_config *config, struct buf *out)
{
    assert(consensus__config_valid(config));
    size_t bytes = CONFIG_HEAD_BYTES + config->count * (8 + ADDRESS_BYTES + 1);
    size_t padded = (bytes + 7) & ~(size_t)7;
    uint8_t *at = buf_extend(out, padded);
    if (at == NULL) {
        return ERR_NOMEM;
    }
    memset(at, 0, padded);
    *at++ = CONFIG_FORMAT;
    store_u64(at, config->count);
    at += 8;
    for (uint32_t i = 0; i < config->count; i++) {
        store_u64(at, config->servers[i].id);
        consensus__address(config->servers[i].id, (char *)at + 8);
        at[8 + ADDRESS_BYTES] = (uint8_t)config->servers[i].role;
        at += 8 + ADDRESS_BYTES + 1;
    }
    return 0;
}

int consensus_config_decode(struct slice data, struct consensus_config *out)
{
    memset(out, 0, sizeof *out);
    struct consensus_config config = {.count = 0};
    struct cursor c = cursor_of(data);
    uint8_t format = cursor_u8(&c);
    uint64_t count = cursor_u64(&c);
    if (c.failed || format != CONFIG_FORMAT || count == 0 || count > NODES_MAX * 2) {
        return ERR_PROTOCOL;
    }
    for (config.count = 0; config.count < count; config.count++) {
        struct consensus_server *s = &config.servers[config.count];
        char address[ADDRESS_BYTES];
        s->id = cursor_u64(&c);
        struct slice got = cursor_bytes(&c, ADDRESS_BYTES);
        uint8_t role = cursor_u8(&c);
        if (c.failed || role > CONSENSUS_SPARE) {
            return ERR_PROTOCOL;
        }
        s->role = (enum consensus_role)role;
        consensus__address(s->id, address);
        if (memcmp(address, got.data, ADDRESS_BYTES) != 0) {
            return ERR_PROTOCOL;
        }
    }
    size_t padding = (8 - (data.len - cursor_left(&c)) % 8) % 8;
    if (cursor_left(&c) != padding) {
        return ERR_PROTOCOL;
    }
    while (padding-- > 0) {
        if (cursor_u8(&c) != 0) {
            return ERR_PROTOCOL;
        }
    }
    if (!consensus__config_valid(&config)) {
        return ERR_PROTOCOL;
    }
    *out = config;
    return 0;
}
