#include "tests/support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/env_uv.h"
#include "base/mem.h"

#define MS 1000000u

static struct env *env;

static int setup(void **state)
{
    (void)state;
    return env_uv_open(&env);
}

static int teardown(void **state)
{
    (void)state;
    env_uv_close(env);
    return 0;
}

/* What callbacks note, in order. */
static char trace[1024];
static size_t trace_len;

static void note(char c)
{
    assert_true(trace_len < sizeof trace - 1);
    trace[trace_len++] = c;
    trace[trace_len] = '\0';
}

static void trace_clear(void)
{
    trace_len = 0;
    trace[0] = '\0';
}

/* ---- timers ---- */

struct timer {
    struct env_timer timer;
    char name;
    int again; /* arms itself this many times more, in the past */
    bool last; /* stops the loop */
    uint64_t fired_ns;
};

static void timer_cb(struct env_timer *t)
{
    struct timer *timer = container_of(t, struct timer, timer);
    note(timer->name);
    timer->fired_ns = env_now_ns(env);
    if (timer->again > 0) {
        timer->again--;
        env_timer_start(env, t, 0);
    }
    if (timer->last) {
        env_uv_stop(env);
    }
}

static struct timer timer_of(char name)
{
    struct timer t = {.timer = {.cb = timer_cb}, .name = name};
    return t;
}

static void timers_fire_in_order_of_their_times_and_not_before(void **state)
{
    (void)state;
    trace_clear();
    struct timer a = timer_of('a'), b = timer_of('b'), c = timer_of('c'), d = timer_of('d');
    d.last = true;
    uint64_t start = env_now_ns(env);
    env_timer_start(env, &d.timer, start + 30 * MS);
    env_timer_start(env, &b.timer, start + 10 * MS);
    env_timer_start(env, &a.timer, start + 5 * MS);
    env_timer_start(env, &c.timer, start + 20 * MS);
    env_uv_run(env);
    assert_string_equal(trace, "abcd");
    assert_true(a.fired_ns >= start + 5 * MS);
    assert_true(d.fired_ns >= start + 30 * MS);
    assert_int_equal(a.timer.slot, 0);
}

static void stopped_timer_does_not_fire(void **state)
{
    (void)state;
    trace_clear();
    struct timer a = timer_of('a'), b = timer_of('b');
    b.last = true;
    env_timer_stop(env, &a.timer); /* unarmed: nothing */
    env_timer_start_in_ms(env, &a.timer, 1);
    env_timer_start_in_ms(env, &b.timer, 5);
    env_timer_stop(env, &a.timer);
    env_timer_stop(env, &a.timer);
    env_uv_run(env);
    assert_string_equal(trace, "b");
}

static void rearmed_timer_fires_once_at_its_last_time(void **state)
{
    (void)state;
    trace_clear();
    struct timer a = timer_of('a'), b = timer_of('b');
    b.last = true;
    env_timer_start_in_ms(env, &a.timer, 1);
    env_timer_start_in_ms(env, &b.timer, 10);
    env_timer_start_in_ms(env, &a.timer, 5);
    env_timer_start_in_ms(env, &a.timer, 3);
    env_uv_run(env);
    assert_string_equal(trace, "ab");
}

static void timer_in_the_past_lets_others_live(void **state)
{
    (void)state;
    trace_clear();
    struct timer a = timer_of('a'), b = timer_of('b');
    a.again = 5;
    b.last = true;
    env_timer_start(env, &a.timer, 0);
    env_timer_start_in_ms(env, &b.timer, 50);
    env_uv_run(env);
    assert_string_equal(trace, "aaaaaab");
}

static struct timer many[500];
static size_t many_fired;
static uint64_t many_last_ns;

static void many_cb(struct env_timer *t)
{
    assert_true(t->at_ns >= many_last_ns);
    many_last_ns = t->at_ns;
    many_fired++;
    if (many_fired == 250) {
        env_uv_stop(env);
    }
}

static void heap_keeps_its_order_under_random_changes(void **state)
{
    (void)state;
    many_fired = 0;
    many_last_ns = 0;
    memset(many, 0, sizeof many);
    uint64_t start = env_now_ns(env) + 20 * MS;
    uint64_t x = 88172645463325252u;
    for (size_t round = 0; round < 20; round++) {
        for (size_t i = 0; i < 500; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            many[i].timer.cb = many_cb;
            if (x % 3 == 0) {
                env_timer_stop(env, &many[i].timer);
            } else {
                env_timer_start(env, &many[i].timer, start + x % (20 * MS));
            }
        }
    }
    for (size_t i = 0; i < 500; i++) {
        if (i % 2 == 0) {
            env_timer_stop(env, &many[i].timer);
        } else if (many[i].timer.slot == 0) {
            env_timer_start(env, &many[i].timer, start + i);
        }
    }
    env_uv_run(env);
    assert_int_equal(many_fired, 250);
}

/* ---- deferred tasks ---- */

struct task {
    struct env_task task;
    char name;
    struct task *then;
};

static void task_cb(struct env_task *t)
{
    struct task *task = container_of(t, struct task, task);
    note(task->name);
    if (task->then != NULL) {
        env_defer(env, &task->then->task);
        task->then = NULL;
    }
}

static void tasks_run_once_in_order_before_the_loop_blocks(void **state)
{
    (void)state;
    trace_clear();
    struct task b = {.task = {.cb = task_cb}, .name = 'b'};
    struct task c = {.task = {.cb = task_cb}, .name = 'c'};
    struct task a = {.task = {.cb = task_cb}, .name = 'a', .then = &c};
    struct timer end = timer_of('t');
    end.last = true;
    env_defer(env, &a.task);
    env_defer(env, &b.task);
    env_defer(env, &a.task);
    assert_string_equal(trace, ""); /* never from inside the call */
    env_timer_start_in_ms(env, &end.timer, 5);
    env_uv_run(env);
    assert_string_equal(trace, "abct");
}

struct post {
    struct env_post post;
    char name;
    struct task *task;
    bool last;
};

static void post_cb(struct env_post *p)
{
    struct post *post = container_of(p, struct post, post);
    note(post->name);
    if (post->task != NULL) {
        env_defer(env, &post->task->task);
    }
    if (post->last) {
        env_uv_stop(env);
    }
}

static void task_of_a_polled_event_runs_in_the_same_turn(void **state)
{
    (void)state;
    trace_clear();
    struct task a = {.task = {.cb = task_cb}, .name = 'a'};
    struct post p = {.post = {.cb = post_cb}, .name = 'p', .task = &a, .last = true};
    env_post(env, &p.post);
    assert_string_equal(trace, "");
    env_uv_run(env); /* returns after the turn in which the post came */
    assert_string_equal(trace, "pa");
}

/* ---- posts from other threads ---- */

#define POSTS 2000
static struct post posts[4][POSTS];
static size_t posts_seen[4];
static size_t posts_all;

static void post_count_cb(struct env_post *p)
{
    struct post *post = container_of(p, struct post, post);
    size_t from = (size_t)post->name;
    assert_ptr_equal(post, &posts[from][posts_seen[from]]); /* in order, for each thread */
    posts_seen[from]++;
    if (++posts_all == (size_t)4 * POSTS) {
        env_uv_stop(env);
    }
}

static void *post_main(void *arg)
{
    struct post *mine = arg;
    for (size_t i = 0; i < POSTS; i++) {
        env_post(env, &mine[i].post);
    }
    return NULL;
}

static void posts_of_many_threads_all_arrive_in_order(void **state)
{
    (void)state;
    pthread_t threads[4];
    for (size_t t = 0; t < 4; t++) {
        for (size_t i = 0; i < POSTS; i++) {
            posts[t][i].post.cb = post_count_cb;
            posts[t][i].name = (char)t;
        }
        assert_int_equal(pthread_create(&threads[t], NULL, post_main, posts[t]), 0);
    }
    env_uv_run(env);
    for (size_t t = 0; t < 4; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
        assert_int_equal(posts_seen[t], POSTS);
    }
}

static void *stop_main(void *arg)
{
    (void)arg;
    (void)usleep(5000);
    env_uv_stop(env);
    return NULL;
}

static void stop_from_another_thread_ends_the_run(void **state)
{
    (void)state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_main, NULL), 0);
    env_uv_run(env);
    assert_int_equal(pthread_join(thread, NULL), 0);
    env_uv_stop(env); /* before the run: it returns after one turn */
    env_uv_run(env);
}

/* A post from the loop's own thread, which posts itself again and again: each turn does one, so
 * that the timer gets its turn too. */
struct own_post {
    struct env_post post;
    struct env_task task;
    size_t ran;
    bool stop;
};

static void own_post_cb(struct env_post *post)
{
    struct own_post *own = container_of(post, struct own_post, post);
    own->ran++;
    if (!own->stop) {
        env_post(env, post);
    } else {
        env_uv_stop(env);
    }
}

static void own_post_from_task(struct env_task *task)
{
    struct own_post *own = container_of(task, struct own_post, task);
    env_post(env, &own->post);
}

static struct own_post own;

static void own_post_end(struct env_timer *t)
{
    (void)t;
    own.stop = true;
}

static void post_of_the_loop_itself_arrives_and_starves_nobody(void **state)
{
    (void)state;
    own = (struct own_post){.post = {.cb = own_post_cb}, .task = {.cb = own_post_from_task}};
    struct env_timer t = {.cb = own_post_end};
    env_timer_start_in_ms(env, &t, 5);
    env_defer(env, &own.task);
    env_uv_run(env);
    assert_true(own.ran > 1);
}

/* ---- work ---- */

#define WORKS 200
struct work {
    struct env_work work;
    size_t number;
    pthread_t ran_on;
};
static struct work works[ENV_QUEUE_COUNT][WORKS];
static size_t works_ran[ENV_QUEUE_COUNT]; /* each written by its queue's thread only */
static size_t works_done[ENV_QUEUE_COUNT];
static size_t works_done_all;
static pthread_t loop_thread;

static void work_run(struct env_work *w)
{
    struct work *work = container_of(w, struct work, work);
    assert_int_equal(works_ran[w->queue], work->number);
    works_ran[w->queue]++;
    work->ran_on = pthread_self();
}

static void work_done(struct env_work *w)
{
    struct work *work = container_of(w, struct work, work);
    assert_true(pthread_equal(pthread_self(), loop_thread));
    assert_false(pthread_equal(work->ran_on, loop_thread));
    assert_int_equal(works_done[w->queue], work->number);
    works_done[w->queue]++;
    if (++works_done_all == (size_t)WORKS * ENV_QUEUE_COUNT) {
        env_uv_stop(env);
    }
}

static void works_of_a_queue_run_and_finish_in_order(void **state)
{
    (void)state;
    loop_thread = pthread_self();
    for (size_t i = 0; i < WORKS; i++) {
        for (uint32_t q = 0; q < ENV_QUEUE_COUNT; q++) {
            works[q][i].number = i;
            works[q][i].work.queue = q;
            works[q][i].work.run = work_run;
            works[q][i].work.done = work_done;
            env_work(env, &works[q][i].work);
        }
    }
    env_uv_run(env);
    for (size_t q = 0; q < ENV_QUEUE_COUNT; q++) {
        assert_int_equal(works_done[q], WORKS);
    }
}

/* One work waits until a work of another queue has run: that can only end if they run at the same
 * time. */
static pthread_mutex_t meet_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t meet_wake = PTHREAD_COND_INITIALIZER;
static bool met;
static size_t meet_done;

static void meet_wait(struct env_work *w)
{
    (void)w;
    pthread_mutex_lock(&meet_lock);
    while (!met) {
        pthread_cond_wait(&meet_wake, &meet_lock);
    }
    pthread_mutex_unlock(&meet_lock);
}

static void meet_signal(struct env_work *w)
{
    (void)w;
    pthread_mutex_lock(&meet_lock);
    met = true;
    pthread_cond_signal(&meet_wake);
    pthread_mutex_unlock(&meet_lock);
}

static void meet_finished(struct env_work *w)
{
    (void)w;
    if (++meet_done == 2) {
        env_uv_stop(env);
    }
}

static void queues_run_at_the_same_time(void **state)
{
    (void)state;
    struct env_work a = {.run = meet_wait, .done = meet_finished, .queue = ENV_QUEUE_LOG_0};
    struct env_work b = {.run = meet_signal, .done = meet_finished, .queue = ENV_QUEUE_LOG_1};
    env_work(env, &a);
    env_work(env, &b);
    env_uv_run(env);
    assert_int_equal(meet_done, 2);
}

/* ---- signals ---- */

static bool term_blocked_in_worker;

static void mask_run(struct env_work *w)
{
    (void)w;
    sigset_t mask;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
    term_blocked_in_worker = sigismember(&mask, SIGTERM) == 1;
}

static void mask_done(struct env_work *w)
{
    (void)w;
    env_uv_stop(env);
}

static void workers_take_no_signals_from_the_program(void **state)
{
    (void)state;
    struct env_work w = {.run = mask_run, .done = mask_done, .queue = ENV_QUEUE_MISC};
    env_work(env, &w);
    env_uv_run(env);
    assert_true(term_blocked_in_worker);
    sigset_t mask;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_int_equal(sigismember(&mask, SIGTERM), 0);
}

static int broken_pipe_errno;

static void broken_pipe_cb(struct env_timer *t)
{
    (void)t;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    (void)close(fds[0]);
    broken_pipe_errno = write(fds[1], "x", 1) < 0 ? errno : 0;
    (void)close(fds[1]);
    env_uv_stop(env);
}

static void peer_that_hangs_up_does_not_kill_the_process(void **state)
{
    (void)state;
    struct env_timer t = {.cb = broken_pipe_cb};
    env_timer_start(env, &t, 0);
    env_uv_run(env);
    assert_int_equal(broken_pipe_errno, EPIPE);
}

/* ---- clocks and randomness ---- */

static void clocks_advance(void **state)
{
    (void)state;
    uint64_t before = env_now_ns(env);
    (void)usleep(2000);
    assert_true(env_now_ns(env) >= before + 1 * MS); /* outside of the loop it isn't kept */
    assert_true(env_now_ms(env) >= before / MS);
    assert_true(env_wall_us(env) > 1700000000000000u);
}

static uint64_t turn_times[2];

static void slow_cb(struct env_timer *t)
{
    (void)t;
    turn_times[0] = env_now_ns(env);
    (void)usleep(2000);
    turn_times[1] = env_now_ns(env);
    env_uv_stop(env);
}

static void time_stands_still_within_a_turn(void **state)
{
    (void)state;
    struct env_timer t = {.cb = slow_cb};
    env_timer_start_in_ms(env, &t, 1);
    env_uv_run(env);
    assert_true(turn_times[0] == turn_times[1]);
    assert_true(env_now_ns(env) > turn_times[1]);
}

static void random_bytes_differ(void **state)
{
    (void)state;
    assert_true(env_random_u64(env) != env_random_u64(env));
    uint8_t bytes[1000];
    memset(bytes, 0, sizeof bytes);
    env_random(env, bytes, sizeof bytes);
    size_t zeros = 0;
    for (size_t i = 0; i < sizeof bytes; i++) {
        zeros += bytes[i] == 0;
    }
    assert_true(zeros < 50);
}

/* ---- life ---- */

static void transport_is_unsupported_until_attached(void **state)
{
    (void)state;
    struct env_listener *listener = (void *)1;
    struct env_conn *conn = (void *)1;
    struct err_text e;
    static const struct env_conn_cbs cbs = {0};
    assert_int_equal(env_listen(env, "127.0.0.1:0", NULL, NULL, &listener, &e), ERR_UNSUPPORTED);
    assert_null(listener);
    assert_non_null(strstr(e.text, "127.0.0.1:0"));
    assert_int_equal(env_connect(env, "127.0.0.1:1", ENV_ROLE_NODE, NULL, &cbs, NULL, &conn),
                     ERR_UNSUPPORTED);
    assert_null(conn);
    assert_null(env_uv_transport(env));
    env_uv_set_transport(env, &e);
    assert_ptr_equal(env_uv_transport(env), &e);
    assert_ptr_equal(env_uv_ops(env), env->ops);
    assert_non_null(env_uv_loop(env));
}

static void open_without_memory_fails_cleanly(void **state)
{
    (void)state;
    struct env *other = (void *)1;
    mem_fault(0, 1);
    int rv = env_uv_open(&other);
    mem_fault(0, 0);
    assert_int_equal(rv, ERR_NOMEM);
    assert_null(other);
}

static void several_reactors_live_in_one_process(void **state)
{
    (void)state;
    struct env *envs[4];
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(env_uv_open(&envs[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        env_uv_stop(envs[i]);
        env_uv_run(envs[i]);
    }
    for (size_t i = 0; i < 4; i++) {
        env_uv_close(envs[i]);
    }
}

static void a_missing_standard_stream_is_taken_by_nothing_else(void **state)
{
    struct stat st;
    (void)state;
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        int kept = fcntl(fd, F_DUPFD_CLOEXEC, 10);
        (void)close(fd);
        int rv = env_uv_open(&env);
        bool device = fstat(fd, &st) == 0 && S_ISCHR(st.st_mode);
        bool writable = write(fd, "", 1) == 1;
        env_uv_close(env);
        assert_int_equal(dup2(kept, fd), fd);
        (void)close(kept);
        assert_int_equal(rv, 0);
        assert_true(device);
        assert_false(writable); /* who prints is told */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(timers_fire_in_order_of_their_times_and_not_before, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(stopped_timer_does_not_fire, setup, teardown),
        cmocka_unit_test_setup_teardown(rearmed_timer_fires_once_at_its_last_time, setup, teardown),
        cmocka_unit_test_setup_teardown(timer_in_the_past_lets_others_live, setup, teardown),
        cmocka_unit_test_setup_teardown(heap_keeps_its_order_under_random_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(tasks_run_once_in_order_before_the_loop_blocks, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(task_of_a_polled_event_runs_in_the_same_turn, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(posts_of_many_threads_all_arrive_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(stop_from_another_thread_ends_the_run, setup, teardown),
        cmocka_unit_test_setup_teardown(post_of_the_loop_itself_arrives_and_starves_nobody, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(works_of_a_queue_run_and_finish_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(queues_run_at_the_same_time, setup, teardown),
        cmocka_unit_test_setup_teardown(workers_take_no_signals_from_the_program, setup, teardown),
        cmocka_unit_test_setup_teardown(peer_that_hangs_up_does_not_kill_the_process, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(clocks_advance, setup, teardown),
        cmocka_unit_test_setup_teardown(time_stands_still_within_a_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(random_bytes_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(transport_is_unsupported_until_attached, setup, teardown),
        cmocka_unit_test(open_without_memory_fails_cleanly),
        cmocka_unit_test(a_missing_standard_stream_is_taken_by_nothing_else),
        cmocka_unit_test(several_reactors_live_in_one_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
