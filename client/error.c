/* Errors as the program sees them. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "client/sdk.h"

static _Thread_local char last_text[512];

int sdk__fail(int err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(last_text, sizeof last_text, format, args);
    va_end(args);
    const char *text = err_text_of(err);
    if (last_text[0] == '\0' || strcmp(last_text, text) == 0) {
        (void)snprintf(last_text, sizeof last_text, "%s; %s", text, sdk__next_step(err));
    }
    return err;
}

int sdk__because(int err, const char *format, ...)
{
    char text[sizeof last_text];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return sdk__fail(err, "%.380s; %s", text, sdk__next_step(err));
}

/* The numbers are the wire's: what a node answers is handed through. */
#define X(name, number, class, text)                                                               \
    static_assert((int)CAIRN_E_##name == (int)ERR_##name, "CAIRN_E_" #name " and ERR_" #name);
ERR_TABLE(X)
#undef X
static_assert((int)CAIRN_ERROR_RETRYABLE == (int)ERR_CLASS_RETRYABLE, "classes are the same bits");
static_assert((int)CAIRN_ERROR_MAYBE_COMMITTED == (int)ERR_CLASS_MAYBE_COMMITTED, "");
static_assert((int)CAIRN_ERROR_FATAL == (int)ERR_CLASS_FATAL, "");
static_assert(sizeof(cairn_ptr) == 8, "a pointer is eight bytes in objects");

const char *cairn_version(void)
{
#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
    return TEXT(CAIRN_VERSION_MAJOR) "." TEXT(CAIRN_VERSION_MINOR) "." TEXT(CAIRN_VERSION_PATCH);
#undef TEXT
#undef TEXT_
}

const char *cairn_strerror(int code)
{
    return code == 0 ? "success" : err_text_of(code);
}

const char *cairn_error_name(int code)
{
    switch (code) {
    case 0:
        return "CAIRN_OK";
#define X(name, number, class, text)                                                               \
    case -(number):                                                                                \
        return "CAIRN_E_" #name;
        ERR_TABLE(X)
#undef X
    default:
        return "CAIRN_E_UNKNOWN";
    }
}

const char *cairn_errormsg(void)
{
    return last_text;
}

int cairn_error_is(int code, enum cairn_error_class error_class)
{
    return (err_class(code) & (int)error_class) != 0;
}
