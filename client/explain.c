/* Failures in words: the cause, and what to do next. Nodes and directories answer with a code; what
 * was asked, and of which object, is known here. The words are for who reads a program's messages,
 * and for who typed `cairnctl`: no names of functions in them. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "client/sdk.h"

static const char *const next_steps[] = {
    [-CAIRN_E_NOMEM] = "end what isn't needed, or raise the limit (of memory or of open files)",
    [-CAIRN_E_INVAL] = "see what the call's description says of its arguments",
    [-CAIRN_E_NOTFOUND] = "list what there is, and check the name",
    [-CAIRN_E_EXISTS] = "use what is there, or choose another name",
    [-CAIRN_E_CONFLICT] = "nothing was changed: read again, and decide anew",
    [-CAIRN_E_STALE] = "forget the pointer: it never becomes valid again",
    [-CAIRN_E_RANGE] = "ask for the object's size and stay within it, or resize the object",
    [-CAIRN_E_TOOBIG] = "do it in smaller pieces",
    [-CAIRN_E_NOSPACE] = "free something, or keep less history",
    [-CAIRN_E_BUSY] = "nothing has happened: try again in a moment",
    [-CAIRN_E_NOTLEADER] = "another node does: try again",
    [-CAIRN_E_UNAVAILABLE] = "see that the nodes run and can be reached, and try again",
    [-CAIRN_E_TIMEOUT] = "nothing has happened: try again, with more time",
    [-CAIRN_E_INDOUBT] = "read, and find out, before it is done again",
    [-CAIRN_E_CANCELED] = "connect anew, and find out whether a change has happened",
    [-CAIRN_E_SESSION_EXPIRED] = "find out whether a change has happened, and call again",
    [-CAIRN_E_DENIED] = "use a certificate, or an owner of the files, that may do it",
    [-CAIRN_E_UNAUTHENTICATED] = "use a certificate that the cluster's CA has signed",
    [-CAIRN_E_PROTOCOL] = "use the same version of Cairn on both sides",
    [-CAIRN_E_VERSION] = "use the version of Cairn that wrote it, or that the nodes have",
    [-CAIRN_E_IO] = "look into the system's log, see to the device, and open it again",
    [-CAIRN_E_CORRUPT] = "change nothing there: check the heap, and take a whole copy",
    [-CAIRN_E_DISKFULL] = "make room on the device, and try again",
    [-CAIRN_E_CLOSED] = "open it again, in this process",
    [-CAIRN_E_NOCONN] = "check the address and the network, and try again",
    [-CAIRN_E_TLS] = "check certificate, key, CA and clock of both sides",
    [-CAIRN_E_CONFIG] = "correct the setting",
    [-CAIRN_E_UNSUPPORTED] = "see in the call's description where it can be done",
    [-CAIRN_E_NOSHARD] = "try again; if the heap was dropped, open another",
    [-CAIRN_E_WRONGCLUSTER] = "give addresses of one cluster only",
    [-CAIRN_E_SHUTDOWN] = "try again: another node takes over",
    [-CAIRN_E_LOCKED] = "end the other process, or use another directory",
    [-CAIRN_E_TRUNCATED] = "take a whole copy",
    [-CAIRN_E_LIMIT] = "wait until some of it has ended, and try again",
    [-CAIRN_E_SNAPSHOT_TOO_OLD] = "read at a newer version, or keep history for longer",
    [-CAIRN_E_NOT_YET] = "wait for the commit of the transaction that allocates it",
    [-CAIRN_E_TX_ABORTED] = "begin it anew",
    [-CAIRN_E_TX_UNDECIDED] = "try again in a moment",
    [-CAIRN_E_TX_TOO_LATE] = "begin it anew, with more time",
};

#define X(name, number, class, text) +1
static_assert(sizeof next_steps / sizeof next_steps[0] == 1 + (0 ERR_TABLE(X)),
              "one for each code");
#undef X

const char *sdk__next_step(int err)
{
    bool known = err < 0 && err > -(int)(sizeof next_steps / sizeof next_steps[0]);
    return known ? next_steps[-err] : "report it with the program's log";
}

/* What the code means for this kind of call, where that is more than the code says. */
static const char *cause_of(const struct core_call *call)
{
    switch (call->kind) {
    case KIND_ROOT_GET:
    case KIND_ROOT_DELETE:
        return call->err == ERR_NOTFOUND ? "there is no root of that name" : NULL;
    case KIND_ROOT_COMPARE_AND_SET:
        return call->err == ERR_CONFLICT ? "the root doesn't point where it was expected to" : NULL;
    case KIND_COMPARE_AND_WRITE:
        return call->err == ERR_CONFLICT ? "the bytes there are not those that were expected"
                                         : NULL;
    case KIND_WRITE_IF_VERSION:
        return call->err == ERR_CONFLICT ? "it has changed since that version" : NULL;
    case KIND_READ:
    case KIND_STAT:
        return call->err == ERR_NOTFOUND ? "it was not allocated yet at that version" : NULL;
    default:
        return NULL;
    }
}

/* Calls on one object: those that are aimed at it (call.c). */
static bool is_of_object(uint16_t kind)
{
    return kind == KIND_FREE || kind == KIND_READ || kind == KIND_REALLOC || kind == KIND_WRITE ||
           kind == KIND_COMPARE_AND_WRITE || kind == KIND_WRITE_IF_VERSION ||
           kind == KIND_ADD_U64 || kind == KIND_STAT || kind == KIND_HISTORY;
}

/* api.c says what a heap's name has to do with it. */
static bool is_of_heap(uint16_t kind)
{
    return kind == KIND_HEAP_CREATE || kind == KIND_HEAP_DROP || kind == KIND_HEAP_OPEN;
}

void sdk__explain(struct core_call *call)
{
    if (call->err == 0 || is_of_heap(call->kind)) {
        return;
    }
    const char *text = err_text_of(call->err);
    if (call->text[0] != '\0' && strcmp(call->text, text) != 0) {
        return; /* who answered has said more */
    }
    const char *cause = cause_of(call);
    char object[CAIRN_PTR_TEXT_BYTES + 16] = "";
    if (is_of_object(call->kind)) {
        char ptr[CAIRN_PTR_TEXT_BYTES];
        cairn_ptr_format((cairn_ptr){call->target}, ptr, sizeof ptr);
        (void)snprintf(object, sizeof object, "object %s: ", ptr);
    }
    (void)snprintf(call->text, sizeof call->text, "%s%s; %s", object, cause != NULL ? cause : text,
                   sdk__next_step(call->err));
}
