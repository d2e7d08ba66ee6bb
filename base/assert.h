/* Asserts that stay on in every build. For programmer errors only: never for bytes from the network
 * or the disk. assert_slow() is for O(n) checks and runs in builds with CAIRN_ASSERT_SLOW (the
 * sanitizer presets). */
#ifndef CAIRN_BASE_ASSERT_H
#define CAIRN_BASE_ASSERT_H

#include <assert.h> /* for static_assert; its assert() is replaced below */

/* Prints file, line, function and condition on standard error and aborts. thread: any */
_Noreturn void assert_failed(const char *file, int line, const char *function,
                             const char *condition);

#undef assert
#define assert(condition)                                                                          \
    ((condition) ? (void)0 : assert_failed(__FILE__, __LINE__, __func__, #condition))

#ifdef CAIRN_ASSERT_SLOW
#define assert_slow(condition) assert(condition)
#else
#define assert_slow(condition) ((void)sizeof((condition) ? 1 : 0))
#endif

#endif
