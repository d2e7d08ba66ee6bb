#include "tests/support/test.h"

#include <jansson.h>
#include <pthread.h>

#include "base/log.h"

static char lines[64][4096];
static size_t count;

static void keep(void *arg, enum log_level level, const char *line)
{
    (void)arg;
    (void)level;
    assert_true(count < 64);
    (void)snprintf(lines[count++], sizeof lines[0], "%s", line);
}

static unsigned long long fixed_clock(void *arg)
{
    (void)arg;
    return 1795519533123456u;
}

static int setup(void **state)
{
    (void)state;
    count = 0;
    log_set_sink(keep, NULL);
    log_set_clock(fixed_clock, NULL);
    log_set_level(LOG_INFO);
    log_set_json(0);
    log_set_tag(NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    log_set_sink(NULL, NULL);
    log_set_clock(NULL, NULL);
    return 0;
}

static void line_has_time_level_area_sentence_and_pairs(void **state)
{
    (void)state;
    log_warn("wal", "tail torn, truncating", "segment=%u bytes=%zu", 3u, (size_t)4096);
    assert_int_equal(count, 1);
    assert_string_equal(lines[0], "2026-11-24T11:25:33.123Z WARN wal: tail torn, truncating "
                                  "segment=3 bytes=4096");
}

static void line_without_pairs_ends_with_the_sentence(void **state)
{
    (void)state;
    const char *none = "";
    log_write(LOG_INFO, "node", "ready", "%s", none);
    assert_string_equal(lines[0], "2026-11-24T11:25:33.123Z INFO node: ready");
}

static void tag_stands_in_every_line(void **state)
{
    (void)state;
    log_set_tag("n1");
    log_error("wal", "sync failed", "error=%s", "IO");
    assert_string_equal(lines[0], "2026-11-24T11:25:33.123Z ERROR n1 wal: sync failed error=IO");
}

static void *log_from_thread(void *arg)
{
    (void)arg;
    log_info("rpc", "hello", "x=%d", 1);
    return NULL;
}

static void tag_belongs_to_its_thread(void **state)
{
    (void)state;
    log_set_tag("n1");
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, log_from_thread, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(lines[0], "2026-11-24T11:25:33.123Z INFO rpc: hello x=1");
}

static void level_filters(void **state)
{
    (void)state;
    log_debug("a", "not seen", "x=%d", 1);
    assert_int_equal(count, 0);
    log_set_level(LOG_DEBUG);
    log_debug("a", "seen", "x=%d", 1);
    assert_int_equal(count, 1);
    log_set_level(LOG_OFF);
    log_error("a", "not seen", "x=%d", 1);
    assert_int_equal(count, 1);
}

static void control_bytes_cannot_forge_a_line(void **state)
{
    (void)state;
    log_info("rpc", "refused", "peer=%s", "evil\n2026 INFO node: all good\x1b[2J");
    assert_null(strchr(lines[0], '\n'));
    assert_null(strchr(lines[0], '\x1b'));
    assert_non_null(strstr(lines[0], "evil\\x0a2026"));
}

static void long_line_is_cut(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    log_info("rpc", "long", "text=%s", text);
    assert_true(strlen(lines[0]) < 2048);
    log_info("rpc", text, "x=%d", 1);
    assert_true(strlen(lines[1]) < 2048);
}

static void json_line_is_an_object_with_the_pairs(void **state)
{
    (void)state;
    log_set_json(1);
    log_set_tag("n1");
    log_warn("rpc", "connection \"lost\"", "peer=%s reason=%s count=%d", "a:1",
             "it \xff went\n away", 3);
    json_t *o = json_loads(lines[0], 0, NULL);
    assert_non_null(o);
    assert_string_equal(json_string_value(json_object_get(o, "time")), "2026-11-24T11:25:33.123Z");
    assert_string_equal(json_string_value(json_object_get(o, "level")), "WARN");
    assert_string_equal(json_string_value(json_object_get(o, "tag")), "n1");
    assert_string_equal(json_string_value(json_object_get(o, "area")), "rpc");
    assert_string_equal(json_string_value(json_object_get(o, "message")), "connection \"lost\"");
    assert_string_equal(json_string_value(json_object_get(o, "peer")), "a:1");
    assert_string_equal(json_string_value(json_object_get(o, "reason")), "it \xc3\xbf went\n away");
    assert_string_equal(json_string_value(json_object_get(o, "count")), "3");
    json_decref(o);
}

static void long_json_line_is_still_json(void **state)
{
    (void)state;
    log_set_json(1);
    char text[5000];
    for (size_t i = 0; i < sizeof text - 1; i++) {
        text[i] = i % 3 == 0 ? '\x01' : '"';
    }
    text[sizeof text - 1] = '\0';
    for (size_t len = 0; len < sizeof text - 1; len += 89) {
        count = 0;
        log_info("rpc", "long", "a=%.*s b=%.*s c=1", (int)len, text, (int)len / 2, text);
        json_t *o = json_loads(lines[0], 0, NULL);
        assert_non_null(o);
        json_decref(o);
    }
    count = 0;
    log_info("rpc", text, "a=%d", 1);
    json_t *o = json_loads(lines[0], 0, NULL);
    assert_non_null(o);
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(line_has_time_level_area_sentence_and_pairs, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(line_without_pairs_ends_with_the_sentence, setup, teardown),
        cmocka_unit_test_setup_teardown(tag_stands_in_every_line, setup, teardown),
        cmocka_unit_test_setup_teardown(tag_belongs_to_its_thread, setup, teardown),
        cmocka_unit_test_setup_teardown(level_filters, setup, teardown),
        cmocka_unit_test_setup_teardown(control_bytes_cannot_forge_a_line, setup, teardown),
        cmocka_unit_test_setup_teardown(long_line_is_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(json_line_is_an_object_with_the_pairs, setup, teardown),
        cmocka_unit_test_setup_teardown(long_json_line_is_still_json, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
