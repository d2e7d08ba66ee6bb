#include "tests/support/test.h"

#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"

/* Runs assert(value == 1) in a child, whose standard error is caught. */
static int assert_in_child(int value, char *text, size_t bytes)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(fds[1], STDERR_FILENO);
        assert(value == 1);
        _exit(0);
    }
    (void)close(fds[1]);
    size_t len = 0;
    ssize_t n;
    while ((n = read(fds[0], text + len, bytes - 1 - len)) > 0) {
        len += (size_t)n;
    }
    text[len] = '\0';
    (void)close(fds[0]);
    int status = 0;
    assert_true(waitpid(pid, &status, 0) == pid);
    return status;
}

static void false_condition_aborts_and_says_where(void **state)
{
    (void)state;
    char text[1024];
    int status = assert_in_child(2, text, sizeof text);
    assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0));
    assert_non_null(strstr(text, "test_assert.c"));
    assert_non_null(strstr(text, "assert_in_child"));
    assert_non_null(strstr(text, "value == 1"));
}

static void true_condition_goes_on(void **state)
{
    (void)state;
    char text[1024];
    assert_int_equal(assert_in_child(1, text, sizeof text), 0);
    assert_string_equal(text, "");
}

static void condition_is_evaluated_once(void **state)
{
    (void)state;
    int calls = 0;
    assert(++calls == 1);
    assert_int_equal(calls, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(false_condition_aborts_and_says_where),
        cmocka_unit_test(true_condition_goes_on),
        cmocka_unit_test(condition_is_evaluated_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
