#include "tests/support/test.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/env_uv.h"
#include "base/internal.h"
#include "base/mem.h"
#include "tests/support/dir.h"

static struct env *env;
static struct dir dir;
static char path[DIR_PATH_BYTES];
static char path2[DIR_PATH_BYTES];

static int setup(void **state)
{
    (void)state;
    dir_open(&dir);
    (void)dir_path(&dir, "file", path);
    (void)dir_path(&dir, "other", path2);
    return env_uv_open(&env);
}

static int teardown(void **state)
{
    (void)state;
    env_uv_close(env);
    dir_close(&dir);
    return 0;
}

static struct env_file *open_new(int flags)
{
    struct env_file *f = NULL;
    assert_int_equal(env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE | flags, &f), 0);
    assert_non_null(f);
    return f;
}

static void written_bytes_are_read_back(void **state)
{
    (void)state;
    struct env_file *f = open_new(0);
    char data[32] = "";
    assert_int_equal(env_file_pwrite(env, f, "hello", 5, 10), 0);
    assert_int_equal(env_file_sync(env, f), 0);
    assert_int_equal(env_file_size(env, f), 15);
    assert_int_equal(env_file_pread(env, f, data, 5, 10), 5);
    assert_memory_equal(data, "hello", 5);
    assert_int_equal(env_file_pread(env, f, data, 32, 12), 3); /* fewer only at the end */
    assert_int_equal(env_file_pread(env, f, data, 32, 15), 0);
    assert_int_equal(env_file_pread(env, f, data, 32, 1000), 0);
    assert_int_equal(env_file_pread(env, f, data, 1, 0), 1);
    assert_int_equal(data[0], 0); /* a hole */
    assert_int_equal(env_file_truncate(env, f, 12), 0);
    assert_int_equal(env_file_size(env, f), 12);
    env_file_close(env, f);
}

#define CACHED_BYTES ((size_t)1 << 20)

/* Pages of the file that the page cache has. */
static size_t cached_pages(void)
{
    unsigned char in[CACHED_BYTES / 4096];
    size_t count = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *map = mmap(NULL, CACHED_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mincore(map, CACHED_BYTES, in), 0);
    for (size_t i = 0; i < sizeof in; i++) {
        count += in[i] & 1u;
    }
    (void)munmap(map, CACHED_BYTES);
    (void)close(fd);
    return count;
}

/* False: it has no other place, on tmpfs. */
static bool cache_drop(void)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(fdatasync(fd), 0);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)close(fd);
    return cached_pages() == 0;
}

static void only_what_is_asked_for_is_read(void **state)
{
    (void)state;
    static uint8_t data[CACHED_BYTES];
    struct env_file *f = open_new(0);
    assert_int_equal(env_file_pwrite(env, f, data, sizeof data, 0), 0);
    env_file_close(env, f);
    if (!cache_drop()) {
        skip();
    }
    assert_int_equal(env_file_open(env, path, ENV_OPEN_READ | ENV_OPEN_EXACT, &f), 0);
    assert_int_equal(env_file_pread(env, f, data, 4096, 0), 4096);
    assert_int_equal(cached_pages(), 1);
    env_file_ahead(env, f, 8192, 8192);
    for (long looks = 0; cached_pages() < 3; looks++) { /* it hasn't waited for them */
        assert_true(looks < 10000000);
    }
    assert_int_equal(cached_pages(), 3);
    env_file_close(env, f);
}

static void open_says_what_is_wrong(void **state)
{
    (void)state;
    struct env_file *f = (void *)1;
    assert_int_equal(env_file_open(env, path, ENV_OPEN_READ, &f), ERR_NOTFOUND);
    assert_null(f);
    f = open_new(0);
    env_file_close(env, f);
    assert_int_equal(env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE, &f), ERR_EXISTS);
    assert_null(f);
    assert_int_equal(
        env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_CREATE | ENV_OPEN_DIRECT, &f),
        ERR_EXISTS);
    mem_fault(0, 1);
    int rv = env_file_open(env, path, ENV_OPEN_READ, &f);
    mem_fault(0, 0);
    assert_int_equal(rv, ERR_NOMEM);
}

static void new_file_is_private(void **state)
{
    (void)state;
    env_file_close(env, open_new(0));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(env_dir_create(env, path2), 0);
    assert_int_equal(stat(path2, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
}

static void file_opened_for_reading_cannot_be_written(void **state)
{
    (void)state;
    env_file_close(env, open_new(0));
    struct env_file *f = NULL;
    assert_int_equal(env_file_open(env, path, ENV_OPEN_READ, &f), 0);
    assert_int_equal(env_file_pwrite(env, f, "x", 1, 0), ERR_IO);
    env_file_close(env, f);
}

static void direct_file_round_trip(int flags)
{
    struct env_file *f = open_new(ENV_OPEN_DIRECT | flags);
    uint8_t *data = mem_aligned(4096, 16384);
    for (size_t i = 0; i < 16384; i++) {
        data[i] = (uint8_t)(i * 3);
    }
    assert_int_equal(env_file_pwrite(env, f, data, 16384, 8192), 0);
    assert_int_equal(env_file_size(env, f), 24576);
    uint8_t *back = mem_aligned(4096, 32768);
    assert_int_equal(env_file_pread(env, f, back, 32768, 8192), 16384);
    assert_memory_equal(back, data, 16384);
    /* The rules hold on every file system, so that a breach is found on the developer's tmpfs too.
     */
    assert_int_equal(env_file_pwrite(env, f, data, 100, 0), ERR_INVAL);
    assert_int_equal(env_file_pwrite(env, f, data + 8, 4096, 0), ERR_INVAL);
    assert_int_equal(env_file_pwrite(env, f, data, 4096, 512), ERR_INVAL);
    assert_int_equal(env_file_pread(env, f, back, 100, 0), ERR_INVAL);
    /* An end inside a block: the read gives what there is. */
    assert_int_equal(env_file_truncate(env, f, 10000), 0);
    assert_int_equal(env_file_pread(env, f, back, 32768, 8192), 1808);
    assert_int_equal(env_file_sync(env, f), 0);
    env_file_close(env, f);
    mem_free(data);
    mem_free(back);
}

static void direct_transfers_work_on_this_file_system(void **state)
{
    (void)state;
    direct_file_round_trip(0);
}

static void direct_and_synced_transfers_work_together(void **state)
{
    (void)state;
    direct_file_round_trip(ENV_OPEN_DSYNC);
}

static void direct_is_ignored_where_the_file_system_cannot(void **state)
{
    (void)state;
    char shm[64];
    (void)snprintf(shm, sizeof shm, "/dev/shm/cairn-test-%ld", (long)getpid());
    struct env_file *f = NULL;
    int rv = env_file_open(env, shm, ENV_OPEN_WRITE | ENV_OPEN_CREATE | ENV_OPEN_DIRECT, &f);
    if (rv == ERR_NOTFOUND || rv == ERR_DENIED) {
        skip(); /* no /dev/shm here */
    }
    assert_int_equal(rv, 0);
    uint8_t *data = mem_aligned(4096, 4096);
    memset(data, 5, 4096);
    assert_int_equal(env_file_pwrite(env, f, data, 4096, 0), 0);
    assert_int_equal(env_file_pread(env, f, data, 4096, 0), 4096);
    mem_free(data);
    env_file_close(env, f);
    assert_int_equal(env_file_unlink(env, shm), 0);
}

/* ---- submitted writes ---- */

struct submit {
    struct env_work work;
    struct env_file *file;
    uint8_t *data;
    int err;
    int ran, done;
};

static void submit_run(struct env_work *work)
{
    struct submit *s = container_of(work, struct submit, work);
    s->ran++;
    s->err = env_file_pwrite(env, s->file, s->data, 8192, 4096);
}

static void submit_done(struct env_work *work)
{
    struct submit *s = container_of(work, struct submit, work);
    s->done++;
    env_uv_stop(env);
}

/* Whether the kernel takes it, refuses it at once or later: it is written, and done comes once. */
static void submitted_write_is_written_and_reported_once(void **state)
{
    (void)state;
    struct env_file *f = open_new(ENV_OPEN_DIRECT | ENV_OPEN_DSYNC);
    uint8_t *data = mem_aligned(4096, 65536);
    uint8_t *back = mem_aligned(4096, 65536);
    memset(data, 0, 65536);
    assert_int_equal(env_file_pwrite(env, f, data, 65536, 0), 0);
    for (int i = 1; i <= 200; i++) {
        struct submit s = {.work = {.run = submit_run, .done = submit_done}, .file = f};
        s.work.queue = ENV_QUEUE_LOG_0;
        s.data = data;
        s.err = ERR_CORRUPT;
        memset(data, i, 8192);
        if (!env_file_submit(env, &s.work, f, data, 8192, 4096, &s.err)) {
            env_work(env, &s.work);
        }
        env_uv_run(env);
        assert_int_equal(s.done, 1);
        assert_true(s.ran <= 1);
        assert_int_equal(s.err, 0);
        assert_int_equal(env_file_pread(env, f, back, 8192, 4096), 8192);
        assert_memory_equal(back, data, 8192);
    }
    env_file_close(env, f);
    mem_free(data);
    mem_free(back);
}

static void only_direct_and_synced_files_take_submitted_writes(void **state)
{
    (void)state;
    struct submit s = {.work = {.run = submit_run, .done = submit_done}};
    uint8_t *data = mem_aligned(4096, 8192);
    memset(data, 1, 8192);
    struct env_file *f = open_new(ENV_OPEN_DIRECT);
    assert_false(env_file_submit(env, &s.work, f, data, 4096, 0, &s.err));
    env_file_close(env, f);
    assert_int_equal(env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_DSYNC, &f), 0);
    assert_false(env_file_submit(env, &s.work, f, data, 4096, 0, &s.err));
    env_file_close(env, f);
    assert_int_equal(
        env_file_open(env, path, ENV_OPEN_WRITE | ENV_OPEN_DIRECT | ENV_OPEN_DSYNC, &f), 0);
    assert_false(env_file_submit(env, &s.work, f, data + 1, 4096, 0, &s.err));
    assert_false(env_file_submit(env, &s.work, f, data, 4096, 512, &s.err));
    assert_false(env_file_submit(env, &s.work, f, data, 100, 0, &s.err));
    env_file_close(env, f);
    mem_free(data);
}

static void absurd_offsets_are_refused(void **state)
{
    (void)state;
    struct env_file *f = open_new(0);
    char byte = 0;
    assert_int_equal(env_file_pread(env, f, &byte, 1, UINT64_MAX), ERR_INVAL);
    assert_int_equal(env_file_pread(env, f, &byte, 1, INT64_MAX), ERR_INVAL);
    assert_int_equal(env_file_pwrite(env, f, &byte, 1, UINT64_MAX - 5), ERR_INVAL);
    assert_int_equal(env_file_truncate(env, f, UINT64_MAX), ERR_INVAL);
    env_file_close(env, f);
}

static void file_beyond_the_size_limit_is_disk_full(void **state)
{
    (void)state;
    struct env_file *f = open_new(0);
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit small = {8192, old.rlim_max};
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    uint8_t data[16384] = {0};
    int rv_write = env_file_pwrite(env, f, data, sizeof data, 0);
    int rv_truncate = env_file_truncate(env, f, 100000);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(rv_write, ERR_DISKFULL);
    assert_int_equal(rv_truncate, ERR_DISKFULL);
    env_file_close(env, f);
}

static void full_device_is_disk_full(void **state)
{
    (void)state;
    struct env_file *f = NULL;
    assert_int_equal(env_file_open(env, "/dev/full", ENV_OPEN_WRITE, &f), 0);
    assert_int_equal(env_file_pwrite(env, f, "x", 1, 0), ERR_DISKFULL);
    env_file_close(env, f);
}

static void lock_keeps_others_out_until_closed(void **state)
{
    (void)state;
    struct env_file *f = open_new(0);
    assert_int_equal(env_file_lock(env, f), 0);
    assert_int_equal(env_file_lock(env, f), 0); /* it is ours already */
    struct env_file *g = NULL;
    assert_int_equal(env_file_open(env, path, ENV_OPEN_WRITE, &g), 0);
    assert_int_equal(env_file_lock(env, g), ERR_LOCKED);
    env_file_close(env, g); /* must not lose the first one's lock, as a POSIX lock would */
    assert_int_equal(env_file_open(env, path, ENV_OPEN_WRITE, &g), 0);
    assert_int_equal(env_file_lock(env, g), ERR_LOCKED);
    env_file_close(env, f);
    assert_int_equal(env_file_lock(env, g), 0);
    env_file_close(env, g);
}

static void lock_of_a_killed_process_is_gone(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    env_file_close(env, open_new(0));
    pid_t pid = fork();
    if (pid == 0) {
        struct env_file *f = NULL;
        if (env_file_open(env, path, ENV_OPEN_WRITE, &f) != 0 || env_file_lock(env, f) != 0) {
            _exit(1);
        }
        (void)!write(fds[1], "x", 1);
        (void)pause();
        _exit(1);
    }
    char byte;
    assert_int_equal(read(fds[0], &byte, 1), 1);
    struct env_file *f = NULL;
    assert_int_equal(env_file_open(env, path, ENV_OPEN_WRITE, &f), 0);
    assert_int_equal(env_file_lock(env, f), ERR_LOCKED);
    assert_int_equal(kill(pid, SIGKILL), 0);
    int status;
    assert_true(waitpid(pid, &status, 0) == pid);
    assert_int_equal(env_file_lock(env, f), 0);
    env_file_close(env, f);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void a_private_mapping_keeps_what_is_written_there(void **state)
{
    (void)state;
    struct env_file *f = open_new(0);
    char *at = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    memset(at, 'o', 7);
    assert_int_equal(env_file_pwrite(env, f, "disk", 4, 4096), 0);
    assert_int_equal(env_file_pwrite(env, f, "more", 4, 8192), 0);
    assert_int_equal(env_file_map_private(env, f, at + 4096, 8192, 4096), 0);
    assert_memory_equal(at, "ooooooo", 7);
    assert_memory_equal(at + 4096, "disk", 4);
    memset(at + 4096, 'm', 4);
    char data[4];
    assert_int_equal(env_file_pread(env, f, data, 4, 4096), 4);
    assert_memory_equal(data, "disk", 4);
    assert_int_equal(env_file_pwrite(env, f, "next", 4, 4096), 0);
    assert_int_equal(env_file_pwrite(env, f, "next", 4, 8192), 0);
    assert_memory_equal(at + 4096, "mmmm", 4);
    assert_memory_equal(at + 8192, "next", 4);
    /* A handle isn't needed any more. */
    env_file_close(env, f);
    assert_memory_equal(at + 8192, "next", 4);
    assert_int_equal(munmap(at, 3 * 4096), 0);
}

static void mapping_grows_the_file_and_is_shared(void **state)
{
    (void)state;
    struct env_file *f = open_new(0);
    void *map = NULL;
    bool is_pmem = true;
    assert_int_equal(env_file_map(env, f, 0, &map, &is_pmem), ERR_INVAL);
    assert_int_equal(env_file_map(env, f, 65536, &map, &is_pmem), 0);
    assert_int_equal(env_file_size(env, f), 65536);
    memcpy((char *)map + 100, "mapped", 6);
    char data[6];
    assert_int_equal(env_file_pread(env, f, data, 6, 100), 6);
    assert_memory_equal(data, "mapped", 6);
    env_file_unmap(env, f, map, 65536);
    assert_int_equal(env_file_rename(env, path, path2),
                     0); /* the handle goes on under its new name */
    assert_int_equal(env_file_map(env, f, 4096, &map, &is_pmem), 0);
    assert_memory_equal((char *)map + 100, "mapped", 6);
    env_file_unmap(env, f, map, 4096);
    env_file_close(env, f);
}

struct names {
    int count;
    int known;
};

static void count_name(void *arg, const char *name)
{
    struct names *names = arg;
    names->count++;
    names->known += strcmp(name, "file") == 0 || strcmp(name, "other") == 0;
}

static void directories_are_made_listed_and_synced(void **state)
{
    (void)state;
    struct names names = {0, 0};
    assert_int_equal(env_dir_create(env, path2), 0);
    assert_int_equal(env_dir_create(env, path2), ERR_EXISTS);
    env_file_close(env, open_new(0));
    assert_int_equal(env_dir_list(env, dir.path, count_name, &names), 0);
    assert_int_equal(names.count, 2);
    assert_int_equal(names.known, 2);
    assert_int_equal(env_dir_sync(env, dir.path), 0);
    char missing[DIR_PATH_BYTES];
    (void)dir_path(&dir, "missing", missing);
    assert_int_equal(env_dir_sync(env, missing), ERR_NOTFOUND);
    assert_int_equal(env_dir_list(env, missing, count_name, &names), ERR_NOTFOUND);
    assert_int_equal(env_dir_sync(env, path), ERR_IO); /* not a directory */
}

/* Stands before the library's: what was synced last. */
static ino_t synced;
int fsync(int fd)
{
    struct stat st;
    synced = fstat(fd, &st) == 0 ? st.st_ino : 0;
    return (int)syscall(SYS_fsync, fd);
}

static void was_synced(const char *what)
{
    struct stat st;
    assert_int_equal(stat(what, &st), 0);
    assert_int_equal(synced, st.st_ino);
    synced = 0;
}

/* Its entry is synced in what it lies in, wherever that is. */
static void directories_are_made_by_any_name(void **state)
{
    (void)state;
    char slash[DIR_PATH_BYTES + 8];
    char here[PATH_MAX];
    synced = 0;
    (void)snprintf(slash, sizeof slash, "%s//", path2);
    assert_int_equal(env_dir_create(env, slash), 0);
    was_synced(dir.path);
    assert_int_equal(env_dir_create(env, path2), ERR_EXISTS);
    (void)snprintf(slash, sizeof slash, "%s/in/in", path2);
    assert_int_equal(env_dir_create(env, slash), ERR_NOTFOUND);
    assert_int_equal(env_dir_create(env, "/"), ERR_EXISTS);
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(path2), 0);
    int rv = env_dir_create(env, "below");
    assert_int_equal(chdir(here), 0);
    assert_int_equal(rv, 0);
    was_synced(path2);
    (void)snprintf(slash, sizeof slash, "%s/below", path2);
    assert_int_equal(env_dir_remove(env, slash), 0);
}

/* Who may only add to a directory can't open it, to sync it. */
static void directories_are_made_where_nothing_may_be_read(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        skip(); /* only root can be somebody else */
    }
    char below[DIR_PATH_BYTES + 8];
    (void)snprintf(below, sizeof below, "%s/below", path2);
    assert_int_equal(env_dir_create(env, path2), 0);
    assert_int_equal(chmod(dir.path, 0711), 0);
    assert_int_equal(chmod(path2, 0733), 0);
    assert_int_equal(seteuid(65534), 0);
    int rv = env_dir_create(env, below);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(rv, 0);
    assert_int_equal(env_dir_remove(env, below), 0);
}

static void only_empty_directories_are_removed(void **state)
{
    (void)state;
    char inside[DIR_PATH_BYTES + 8];
    (void)snprintf(inside, sizeof inside, "%s/in", path2);
    assert_int_equal(env_dir_remove(env, path2), ERR_NOTFOUND);
    assert_int_equal(env_dir_create(env, path2), 0);
    dir_file_write(inside, 0, "x", 1);
    assert_int_equal(env_dir_remove(env, path2), ERR_EXISTS);
    assert_int_equal(dir_file_size(inside), 1);
    assert_int_equal(env_dir_remove(env, inside), ERR_IO); /* not a directory */
    assert_int_equal(env_file_unlink(env, inside), 0);
    assert_int_equal(env_dir_remove(env, path2), 0);
    assert_int_equal(env_dir_remove(env, path2), ERR_NOTFOUND);
}

#define MACHINE_ID "0123456789abcdef0123456789abcdef"
#define BOOT_ID    "01234567-89ab-cdef-0123-456789abcdef"

static uint64_t host_by(const char *machine_id, const char *boot_id)
{
    dir_file_write(path, 0, machine_id, strlen(machine_id));
    dir_file_truncate(path, strlen(machine_id));
    dir_file_write(path2, 0, boot_id, strlen(boot_id));
    dir_file_truncate(path2, strlen(boot_id));
    return env_uv__host_by(path, path2);
}

/* Images of containers come without a machine-id, with an empty one, or one still to be made. */
static void a_machine_is_known_by_its_id_or_by_its_boot(void **state)
{
    (void)state;
    static const char *const none[] = {
        "",
        "\n",
        "uninitialized\n",
        "00000000000000000000000000000000\n",
        "0123456789abcdef0123456789abcde\n",
        (MACHINE_ID "0\n"),
        "0123456789ABCDEF0123456789abcdef\n",
    };
    assert_int_equal(env_uv__host_by(path, path2), 0);
    uint64_t machine = host_by(MACHINE_ID "\n", BOOT_ID "\n");
    uint64_t boot = host_by("", BOOT_ID "\n");
    assert_true(machine != 0);
    assert_true(boot != 0);
    assert_true(machine != boot);
    assert_int_equal(host_by(MACHINE_ID, ""), machine);
    assert_true(host_by("1123456789abcdef0123456789abcdef\n", BOOT_ID) != machine);
    assert_true(host_by("", "11234567-89ab-cdef-0123-456789abcdef\n") != boot);
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        assert_int_equal(host_by(none[i], BOOT_ID "\n"), boot);
        assert_int_equal(host_by(none[i], none[i]), 0);
    }
}

static void files_are_renamed_over_others_and_removed(void **state)
{
    (void)state;
    dir_file_write(path, 0, "new", 3);
    dir_file_write(path2, 0, "old", 3);
    assert_int_equal(env_file_rename(env, path, path2), 0);
    assert_int_equal(dir_file_size(path), -1);
    char data[3];
    dir_file_read(path2, 0, data, 3);
    assert_memory_equal(data, "new", 3);
    assert_int_equal(env_file_rename(env, path, path2), ERR_NOTFOUND);
    assert_int_equal(env_file_unlink(env, path2), 0);
    assert_int_equal(env_file_unlink(env, path2), ERR_NOTFOUND);
}

static void free_space_is_known(void **state)
{
    (void)state;
    uint64_t bytes = 0;
    assert_int_equal(env_disk_free(env, dir.path, &bytes), 0);
    assert_true(bytes > 0);
    assert_int_equal(env_disk_free(env, path, &bytes), ERR_NOTFOUND);
    assert_true(bytes == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_bytes_are_read_back, setup, teardown),
        cmocka_unit_test_setup_teardown(only_what_is_asked_for_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(open_says_what_is_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(new_file_is_private, setup, teardown),
        cmocka_unit_test_setup_teardown(file_opened_for_reading_cannot_be_written, setup, teardown),
        cmocka_unit_test_setup_teardown(direct_transfers_work_on_this_file_system, setup, teardown),
        cmocka_unit_test_setup_teardown(direct_and_synced_transfers_work_together, setup, teardown),
        cmocka_unit_test_setup_teardown(direct_is_ignored_where_the_file_system_cannot, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(submitted_write_is_written_and_reported_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(only_direct_and_synced_files_take_submitted_writes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(absurd_offsets_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(file_beyond_the_size_limit_is_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(full_device_is_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(lock_keeps_others_out_until_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(lock_of_a_killed_process_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(mapping_grows_the_file_and_is_shared, setup, teardown),
        cmocka_unit_test_setup_teardown(a_private_mapping_keeps_what_is_written_there, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(directories_are_made_listed_and_synced, setup, teardown),
        cmocka_unit_test_setup_teardown(directories_are_made_by_any_name, setup, teardown),
        cmocka_unit_test_setup_teardown(directories_are_made_where_nothing_may_be_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(only_empty_directories_are_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_machine_is_known_by_its_id_or_by_its_boot, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(files_are_renamed_over_others_and_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(free_space_is_known, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
