/* Pointers as text, and errors as the program sees them. */
#include "support/test.h"

#include "base/err.h"
#include "cairn/cairn.h"
#include "client/sdk.h"

static void a_pointer_is_written_and_parsed_back(void **state)
{
    (void)state;
    static const struct {
        uint64_t word;
        const char *text;
    } rows[] = {
        {0, "0.0.0000000000"},
        {2ull << 52 | 1ull << 38 | 0x41, "2.1.0000000041"},
        {UINT64_MAX, "4095.16383.3fffffffff"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[CAIRN_PTR_TEXT_BYTES];
        cairn_ptr ptr = {rows[i].word};
        cairn_ptr_format(ptr, text, sizeof text);
        assert_string_equal(text, rows[i].text);
        assert_int_equal(cairn_ptr_parse(text, &ptr), 0);
        assert_true(ptr.word == rows[i].word);
    }
    char small[4];
    cairn_ptr_format((cairn_ptr){UINT64_MAX}, small, sizeof small);
    assert_string_equal(small, "409");
}

static void what_is_no_pointer_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "1",
                                      "1.2",
                                      "1.2.",
                                      "1.2.41",
                                      "1.2.00000000041",
                                      "1.2.000000004G",
                                      "1.2.000000004F",
                                      "4096.0.0000000001",
                                      "1.16384.0000000001",
                                      "1.1.4000000000",
                                      "01.1.0000000001",
                                      " 1.1.0000000001",
                                      "1.1.0000000001 ",
                                      "-1.1.0000000001",
                                      "99999999999999999999.1.0000000001",
                                      NULL};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cairn_ptr ptr = {7};
        assert_int_equal(cairn_ptr_parse(bad[i], &ptr), CAIRN_E_INVAL);
        assert_true(cairn_ptr_is_null(ptr));
        assert_true(strlen(cairn_errormsg()) > 0);
    }
}

static void codes_are_those_of_the_wire(void **state)
{
    (void)state;
    int count = 0;
#define X(name, number, class, text)                                                               \
    assert_int_equal(CAIRN_E_##name, ERR_##name);                                                  \
    assert_string_equal(cairn_error_name(-(number)), "CAIRN_E_" #name);                            \
    assert_string_equal(cairn_strerror(-(number)), text);                                          \
    assert_int_equal(cairn_error_is(-(number), CAIRN_ERROR_RETRYABLE),                             \
                     ((class) & ERR_CLASS_RETRYABLE) != 0);                                        \
    assert_int_equal(cairn_error_is(-(number), CAIRN_ERROR_FATAL),                                 \
                     ((class) & ERR_CLASS_FATAL) != 0);                                            \
    count++;
    ERR_TABLE(X)
#undef X
    assert_int_equal(count, 39); /* a new code stands in cairn.h too */
    assert_string_equal(cairn_error_name(0), "CAIRN_OK");
    assert_string_equal(cairn_strerror(-999), "unknown error");
    assert_string_equal(cairn_version(), "0.1.0");
}

static void every_code_says_what_to_do_next(void **state)
{
    (void)state;
#define X(name, number, class, text)                                                               \
    assert_non_null(sdk__next_step(-(number)));                                                    \
    assert_true(strlen(sdk__next_step(-(number))) > 10);                                           \
    assert_int_equal(sdk__fail(-(number), "%s", ""), -(number));                                   \
    assert_memory_equal(cairn_errormsg(), text "; ", sizeof text + 1);                             \
    assert_string_equal(cairn_errormsg() + sizeof text + 1, sdk__next_step(-(number)));
    ERR_TABLE(X)
#undef X
    assert_non_null(sdk__next_step(-999));
    /* A node's or directory's own words stay as they are. */
    (void)sdk__fail(CAIRN_E_DENIED, "user bob may not write to heap orders");
    assert_string_equal(cairn_errormsg(), "user bob may not write to heap orders");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pointer_is_written_and_parsed_back),
        cmocka_unit_test(what_is_no_pointer_is_refused),
        cmocka_unit_test(codes_are_those_of_the_wire),
        cmocka_unit_test(every_code_says_what_to_do_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
