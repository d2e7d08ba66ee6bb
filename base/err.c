#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

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

int err_from_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return ERR_DISKFULL;
    case ENOMEM:
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
