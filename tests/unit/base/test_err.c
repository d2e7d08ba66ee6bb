#include "tests/support/test.h"

#include <errno.h>

#include "base/err.h"

static void numbers_are_the_published_ones(void **state)
{
    (void)state;
    assert_int_equal(ERR_NOMEM, -1);
    assert_int_equal(ERR_STALE, -6);
    assert_int_equal(ERR_INDOUBT, -14);
    assert_int_equal(ERR_CORRUPT, -22);
    assert_int_equal(ERR_LIMIT, -34);
    assert_int_equal(ERR_SNAPSHOT_TOO_OLD, -35);
    assert_int_equal(ERR_NOT_YET, -36);
    assert_int_equal(ERR_TX_ABORTED, -37);
    assert_int_equal(ERR_TX_UNDECIDED, -38);
    assert_int_equal(ERR_TX_TOO_LATE, -39);
}

static void numbers_are_dense_and_unique(void **state)
{
    (void)state;
    static const int numbers[] = {
#define X(name, number, class, text) number,
        ERR_TABLE(X)
#undef X
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        assert_int_equal(numbers[i], (int)i + 1);
    }
}

static void every_code_has_name_and_text(void **state)
{
    (void)state;
#define X(name, number, class, text_)                                                              \
    assert_string_equal(err_name(ERR_##name), #name);                                              \
    assert_string_equal(err_text_of(ERR_##name), text_);                                           \
    assert_int_equal(err_class(ERR_##name), class);
    ERR_TABLE(X)
#undef X
}

static void unknown_codes_are_answered(void **state)
{
    (void)state;
    static const int codes[] = {0, 1, 40, -40, -1000000, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        assert_string_equal(err_name(codes[i]), "UNKNOWN");
        assert_string_equal(err_text_of(codes[i]), "unknown error");
        assert_int_equal(err_class(codes[i]), 0);
    }
}

static void why_has_the_system_s_words(void **state)
{
    (void)state;
    assert_string_equal(err_why(err_from_errno(EMFILE)), "too many open files");
    assert_string_equal(err_why(err_from_errno(EROFS)), "read-only file system");
    assert_string_equal(err_why(ERR_IO), err_text_of(ERR_IO)); /* that was another failure */
    assert_string_equal(err_why(err_from_errno(ENOENT)), err_text_of(ERR_NOTFOUND));
}

static void set_fills_the_text_and_returns_the_code(void **state)
{
    (void)state;
    struct err_text e;
    assert_int_equal(err_set(&e, ERR_CONFIG, "line %d: %s", 7, "bad"), ERR_CONFIG);
    assert_string_equal(e.text, "line 7: bad");
}

static void set_cuts_a_long_text(void **state)
{
    (void)state;
    struct err_text e;
    char long_text[2 * ERR_TEXT_BYTES];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    assert_int_equal(err_set(&e, ERR_IO, "%s", long_text), ERR_IO);
    assert_int_equal(strlen(e.text), ERR_TEXT_BYTES - 1);
}

static void set_takes_no_text(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, ERR_IO, "nobody reads %d", 1), ERR_IO);
}

static void errno_values_map_to_codes(void **state)
{
    (void)state;
    assert_int_equal(err_from_errno(ENOSPC), ERR_DISKFULL);
    assert_int_equal(err_from_errno(EDQUOT), ERR_DISKFULL);
    assert_int_equal(err_from_errno(ENOMEM), ERR_NOMEM);
    assert_int_equal(err_from_errno(EMFILE), ERR_NOMEM);
    assert_int_equal(err_from_errno(ENOENT), ERR_NOTFOUND);
    assert_int_equal(err_from_errno(EEXIST), ERR_EXISTS);
    assert_int_equal(err_from_errno(EACCES), ERR_DENIED);
    assert_int_equal(err_from_errno(EPERM), ERR_DENIED);
    assert_int_equal(err_from_errno(EROFS), ERR_DENIED);
    assert_int_equal(err_from_errno(EIO), ERR_IO);
    assert_int_equal(err_from_errno(EFBIG), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_the_published_ones),
        cmocka_unit_test(numbers_are_dense_and_unique),
        cmocka_unit_test(every_code_has_name_and_text),
        cmocka_unit_test(unknown_codes_are_answered),
        cmocka_unit_test(why_has_the_system_s_words),
        cmocka_unit_test(set_fills_the_text_and_returns_the_code),
        cmocka_unit_test(set_cuts_a_long_text),
        cmocka_unit_test(set_takes_no_text),
        cmocka_unit_test(errno_values_map_to_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
