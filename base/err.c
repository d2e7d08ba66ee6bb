#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Numbers are dense from 1, so the table is an array; the switch below would say so at compile time
 * if two rows had the same number. */
struct err_row {
    const char *name;
    const char *text;
    int class_bits;
};

static const struct err_row *err_row_of(int err)
{
    switch (err) {
#define X(name_, number, class_, text_)                                                            \
    case -(number): {                                                                              \
        static const struct err_row row = {#name_, text_, class_};                                 \
        return &row;                                                                               \
    }
        ERR_TABLE(X)
#undef X
    default:
        return NULL;
    }
}

const char *err_text_of(int err)
{
    const struct err_row *row = err_row_of(err);
    return row == NULL ? "unknown error" : row->text;
}

const char *err_name(int err)
{
    const struct err_row *row = err_row_of(err);
    return row == NULL ? "UNKNOWN" : row->name;
}

int err_class(int err)
{
    const struct err_row *row = err_row_of(err);
    return row == NULL ? 0 : row->class_bits;
}

int err_set(struct err_text *e, int err, const char *format, ...)
{
    if (e != NULL) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(e->text, sizeof e->text, format, args);
        va_end(args);
    }
    return err;
}

static _Thread_local int last_errno;

static int code_of(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return ERR_DISKFULL;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        return ERR_NOMEM;
    case ENOENT:
        return ERR_NOTFOUND;
    case EEXIST:
        return ERR_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_DENIED;
    default:
        return ERR_IO;
    }
}

int err_from_errno(int errnum)
{
    last_errno = errnum;
    return code_of(errnum);
}

const char *err_why(int err)
{
    static _Thread_local char text[96];
    if ((err != ERR_IO && err != ERR_DENIED && err != ERR_NOMEM) || last_errno == 0 ||
        code_of(last_errno) != err) {
        return err_text_of(err);
    }
    char words[sizeof text];
    (void)snprintf(text, sizeof text, "%s", strerror_r(last_errno, words, sizeof words));
    text[0] = (char)tolower((unsigned char)text[0]);
    return text;
}
