/* Prints docs/protocol.md: the prose of docs/protocol.in.md (standard input), with the line
 * "@MESSAGES@" replaced by the tables that message.def and base/err.h describe and the limits that
 * bound them. */
#include <stdio.h>
#include <string.h>

#include "rpc/rpc.h"

static void field(const char *name, const char *type, const char *max, const char *doc)
{
    if (max == NULL) {
        printf("| `%s` | %s | | %s |\n", name, type, doc);
    } else {
        printf("| `%s` | %s | %s | %s |\n", name, type, max, doc);
    }
}

static void field_max(const char *name, const char *type, unsigned long max, const char *doc)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%lu", max);
    field(name, type, text, doc);
}

static void open_message(const char *name, unsigned number, const char *lane, const char *answer,
                         bool is_command, const char *doc)
{
    printf("\n### %u %s\n\n", number, name);
    if (doc[0] != '\0') {
        printf("%s.\n\n", doc);
    }
    printf("Lane: %s. ", strcmp(lane, "ANY") == 0 ? "any" : lane);
    if (strcmp(answer, "NONE") == 0) {
        printf("No answer.\n");
    } else {
        printf("Answer: %s or ERROR.\n", answer);
    }
    if (is_command) {
        printf("A command: replicated through the shard's log.\n");
    }
    printf("\n| field | type | at most | meaning |\n|---|---|---|---|\n");
}

static void prefix(void)
{
    field("uid", "u64", NULL, "the shard");
    field("session", "u64", NULL, "its id");
    field("seq", "u64", NULL, "number of the command in its session, from 1");
    field("acked", "u64", NULL, "results up to this seq have arrived; the shard may forget them");
}

static void messages(void)
{
#define MESSAGE(NAME, name, number, lane, answer, doc)                                             \
    open_message(#NAME, number, #lane, #answer, false, doc);
#define COMMAND(NAME, name, number, lane, doc)                                                     \
    open_message(#NAME, number, #lane, "RESULT", true, doc);                                       \
    prefix();
#define U8(name, doc)         field(#name, "u8", NULL, doc);
#define U16(name, doc)        field(#name, "u16", NULL, doc);
#define U32(name, doc)        field(#name, "u32", NULL, doc);
#define U64(name, doc)        field(#name, "u64", NULL, doc);
#define STR(name, max, doc)   field_max(#name, "STR", max, doc);
#define BYTES(name, max, doc) field_max(#name, "BYTES", max, doc);
#include "rpc/message.def"
}

static void errors(void)
{
    printf("| number | name | text | class |\n|---|---|---|---|\n");
#define X(name, number, class, text)                                                               \
    printf("| %d | %s | %s | %s%s%s |\n", number, #name, text,                                     \
           ((class) & ERR_CLASS_RETRYABLE) != 0 ? "retryable" : "",                                \
           ((class) & ERR_CLASS_MAYBE_COMMITTED) != 0 ? "maybe committed" : "",                    \
           ((class) & ERR_CLASS_FATAL) != 0 ? "fatal" : "");
    ERR_TABLE(X)
#undef X
}

int main(void)
{
    char line[1024];
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "@MESSAGES@\n") == 0) {
            messages();
        } else if (strcmp(line, "@ERRORS@\n") == 0) {
            errors();
        } else {
            fputs(line, stdout);
        }
    }
    return ferror(stdout) != 0;
}
