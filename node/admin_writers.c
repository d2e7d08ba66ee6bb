/* Who made an object's changes, for whoever asks for blame: what the shard's log still says
 * (replica/writers.c), with users by name as far as this node has met them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc/heap.h"
#include "base/mem.h"
#include "node/internal.h"

#define CHANGES_MAX 512u

/* ---- users by name: the arena has hashes only ---- */

void users__note(struct node *node, uint64_t owner, const char *name)
{
    struct user_name *u = &node->users[node->users_next % USERS_KNOWN_MAX];
    if (users__name(node, owner) == NULL) {
        u->owner = owner;
        (void)snprintf(u->name, sizeof u->name, "%s", name);
        node->users_next++;
    }
}

const char *users__name(const struct node *node, uint64_t owner)
{
    for (uint32_t i = 0; i < USERS_KNOWN_MAX; i++) {
        if (node->users[i].owner == owner && node->users[i].name[0] != '\0') {
            return node->users[i].name;
        }
    }
    return NULL;
}

/* ---- the question ---- */

static json_t *text_u64(uint64_t value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    return json_string(text);
}

static json_t *row_of(const struct node *node, const struct shard_writer *w)
{
    json_t *row = json_pack("{s:o,s:o,s:o}", "version", text_u64(w->version), "home",
                            text_u64(w->home), "session", text_u64(w->session));
    const char *name = w->owner == 0 ? NULL : users__name(node, w->owner);
    char hash[24];
    if (row != NULL && w->seq != 0) {
        json_object_set_new(row, "seq", text_u64(w->seq));
        json_object_set_new(row, "command", json_string(message_name(w->kind)));
    }
    if (row != NULL && w->owner != 0) {
        (void)snprintf(hash, sizeof hash, "%016" PRIx64, w->owner);
        json_object_set_new(row, "owner", json_string(hash));
    }
    if (row != NULL && name != NULL) {
        json_object_set_new(row, "user", json_string(name));
    }
    return row;
}

static struct shard *led_here(struct node *node, const json_t *args, uint64_t *ptr)
{
    const char *heap = json_string_value(json_object_get(args, "heap"));
    const char *text = json_string_value(json_object_get(args, "ptr"));
    struct catalog_shard place;
    struct shard_info info = {0};
    if (node->replica == NULL || heap == NULL || text == NULL ||
        sscanf(text, "%" SCNu64, ptr) != 1 ||
        catalog_shard_of(node->replica, slice_of(heap, strlen(heap)), ptr_shard(*ptr), &place) !=
            0) {
        return NULL;
    }
    struct shard *shard = replica_shard(node->replica, place.uid);
    if (shard != NULL) {
        shard_get_info(shard, &info);
    }
    return shard != NULL && info.serving && !info.failed ? shard : NULL;
}

json_t *admin__writers(struct node *node, const json_t *args, int *err, struct err_text *e)
{
    uint64_t ptr = 0;
    uint64_t from = 0;
    size_t count = 0;
    struct shard *shard = led_here(node, args, &ptr);
    json_t *rows = json_array();
    if (shard == NULL) { /* another node knows */
        return json_pack("{s:b,s:o}", "serving", false, "writers", rows);
    }
    struct shard_writer *found = mem_alloc(CHANGES_MAX * sizeof *found);
    int rv =
        found == NULL ? ERR_NOMEM : shard_writers(shard, ptr, found, CHANGES_MAX, &count, &from);
    for (size_t i = 0; rv == 0 && i < count; i++) {
        if (found[i].session != 0) {
            json_array_append_new(rows, row_of(node, &found[i]));
        }
    }
    mem_free(found);
    if (rv != 0) {
        json_decref(rows);
        *err = err_set(e, rv, "who wrote it can't be read from the log: %s", err_text_of(rv));
        return NULL;
    }
    return json_pack("{s:b,s:o,s:o}", "serving", true, "from", text_u64(from), "writers", rows);
}
