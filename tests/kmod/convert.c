/* SPDX-License-Identifier: MIT */
/* FIBER_IOC_CONVERT and FIBER_IOC_REVERT: threads that become fibers, and back. */
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define THREADS 6

TEST(first_fiber_is_1_and_runs)
{
	char tid[16];

	CHECK_EQ(convert(0), 1);
	CHECK_EQ(self(), 1);
	CHECK(proc_is(1, "Running", "yes"));
	CHECK(proc_is(1, "State", "running"));
	snprintf(tid, sizeof(tid), "%d", gettid());
	CHECK(proc_is(1, "Thread id", tid));
	/* Nobody has switched to it. */
	CHECK_EQ(proc_number(1, "Number of activations"), 0);
}

TEST(second_conversion_is_eexist)
{
	uint64_t id;

	convert(0);
	CHECK_ERR(try_convert(0, &id), EEXIST);
	CHECK_EQ(id, POISON);
	CHECK_EQ(self(), 1);
}

static void *convert_thread(void *arg)
{
	uint64_t *id = arg;

	*id = convert(0);
	CHECK_EQ(self(), *id);
	return NULL;
}

TEST(each_thread_is_a_fiber_of_its_own)
{
	uint64_t other;

	convert(0);
	thread_join(thread_start(convert_thread, &other));
	CHECK_EQ(other, 2);
	CHECK_EQ(self(), 1);
}

/* What each request says to a thread that is no fiber; the outputs stay. */
static void check_all_eperm(void)
{
	struct fiber_create create_args = {
		.size = sizeof(create_args),
		.entry = (uintptr_t)convert_thread,
		.stack_start = (uintptr_t)stack_new(STACK_SIZE),
		.stack_size = STACK_SIZE,
	};
	uint64_t value;

	CHECK_ERR(try_create(&create_args, &value), EPERM);
	CHECK_EQ(value, POISON);
	CHECK_ERR(fiber_switch(1), EPERM);
	CHECK_ERR(request(device, FIBER_IOC_REVERT, 0), EPERM);
	CHECK_ERR(request(device, FIBER_IOC_RETIRE, 0), EPERM);
	CHECK_ERR(fiber_rename(0, "nobody"), EPERM);
	CHECK_ERR(try_self(&value), EPERM);
	CHECK_EQ(value, POISON);
	CHECK_ERR(fls_alloc(&value), EPERM);
	CHECK_EQ(value, POISON);
	CHECK_ERR(fls_free(0), EPERM);
	CHECK_ERR(fls_set(0, 1), EPERM);
	CHECK_ERR(fls_get(0, &value), EPERM);
	CHECK_EQ(value, POISON);
}

TEST(thread_that_is_no_fiber_may_do_nothing)
{
	device = device_open();
	check_all_eperm();
}

static void *check_all_eperm_thread(void *arg)
{
	check_all_eperm();
	return arg;
}

TEST(conversion_is_of_one_thread_only)
{
	convert(0);
	thread_join(thread_start(check_all_eperm_thread, NULL));
}

TEST(opening_shows_nothing_in_proc)
{
	device = device_open();
	CHECK(access("/proc/self/fiber", F_OK) == -1 && errno == ENOENT);
	convert(0);
	CHECK(access("/proc/self/fiber", F_OK) == 0);
}

static pthread_barrier_t barrier;
static atomic_int finished;

struct rival {
	uint64_t id;
	int fd;
	pthread_t thread;
};

/* Opens and converts at the same moment as all others. */
static void *rival_run(void *arg)
{
	struct rival *rival = arg;
	struct fiber_convert args = { .size = sizeof(args), .id = POISON };

	pthread_barrier_wait(&barrier);
	rival->fd = device_open();
	CHECK_OK(request(rival->fd, FIBER_IOC_CONVERT, (unsigned long)&args));
	rival->id = args.id;
	atomic_fetch_add(&finished, 1);
	/* All are alive while the main thread looks. */
	pthread_barrier_wait(&barrier);
	return NULL;
}

/* Row 4: the first conversions make one process entry, whoever comes first. */
TEST(first_conversions_race_for_one_entry)
{
	struct rival rivals[THREADS];
	unsigned int i, seen = 0;

	counters_wait_none();
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (i = 0; i < THREADS; i++)
		rivals[i].thread = thread_start(rival_run, &rivals[i]);
	pthread_barrier_wait(&barrier);
	WAIT_FOR(atomic_load(&finished) == THREADS);

	for (i = 0; i < THREADS; i++) {
		CHECK(rivals[i].id >= 1 && rivals[i].id <= THREADS);
		seen |= 1U << rivals[i].id;
		CHECK(proc_exists(rivals[i].id));
	}
	CHECK_EQ(seen, ((1U << THREADS) - 1) << 1);

	/* An entry that lost the race is freed by and by. */
	counters_wait((struct counters) { 1, THREADS, THREADS });
	pthread_barrier_wait(&barrier);
	for (i = 0; i < THREADS; i++)
		thread_join(rivals[i].thread);
}

TEST(all_descriptors_lead_to_one_entry)
{
	int second;
	uint64_t id = POISON;

	convert(0);
	second = device_open();
	CHECK_OK(request(second, FIBER_IOC_SELF, (unsigned long)&id));
	CHECK_EQ(id, 1);
	close(device);
	device = second;
	CHECK_EQ(self(), 1);
}

static void count_up(void *arg)
{
	int *count = arg;

	for (;;) {
		++*count;
		CHECK_OK(fiber_switch(1));
	}
}

TEST(closing_all_descriptors_frees_nothing)
{
	int count = 0;
	uint64_t id;

	convert(0);
	id = create(count_up, &count, 0, "stays");
	CHECK_OK(fiber_switch(id));
	close(device);
	CHECK(proc_is(id, "Name", "stays"));
	device = device_open();
	CHECK_EQ(self(), 1);
	CHECK_OK(fiber_switch(id));
	CHECK_EQ((unsigned int)count, 2);
}

TEST(revert_makes_a_thread_again)
{
	convert(0);
	revert();
	check_all_eperm();
	CHECK(!proc_exists(1));
	CHECK_ERR(request(device, FIBER_IOC_REVERT, 0), EPERM);
}

TEST(conversion_after_revert_gives_another_id)
{
	uint64_t id, again;

	id = convert(0);
	revert();
	again = convert(0);
	CHECK(again != id);
	CHECK_EQ(self(), again);
	CHECK_ERR(fiber_switch(id), ESRCH);
	CHECK_ERR(fiber_delete(id), ESRCH);
}

TEST(revert_leaves_the_other_fibers)
{
	int count = 0;
	uint64_t id, again;

	convert(0);
	id = create(count_up, &count, 0, NULL);
	revert();
	CHECK(proc_is(id, "State", "new"));
	again = convert(0);
	CHECK_OK(fiber_delete(id));
	CHECK_EQ(self(), again);
}

static long revert_result;

static void try_to_revert(void *arg)
{
	(void)arg;
	revert_result = request(device, FIBER_IOC_REVERT, 0);
	CHECK_OK(fiber_switch(1));
}

TEST(revert_on_a_created_fiber_is_einval)
{
	convert(0);
	CHECK_OK(fiber_switch(create(try_to_revert, NULL, 0, NULL)));
	CHECK_ERR(revert_result, EINVAL);
	/* Nothing has changed. */
	CHECK_EQ(self(), 1);
	revert();
}

static struct {
	atomic_int parked;
	uint64_t visitor;
	atomic_bool done;
	uint64_t lodger;
} lodging;

/* On the first thread, while its own fiber is away. */
static void lodger_run(void *arg)
{
	(void)arg;
	atomic_store(&lodging.parked, 1);
	WAIT_FOR(atomic_load(&lodging.done));
	CHECK_OK(switch_when_free(1));
}

static void *visitor_run(void *arg)
{
	lodging.visitor = convert(0);
	WAIT_FOR(atomic_load(&lodging.parked));
	/* From here the main thread's own fiber runs on this thread. */
	CHECK_OK(switch_when_free(1));
	return arg;
}

TEST(revert_on_another_threads_own_fiber_is_einval)
{
	pthread_t thread;
	pid_t tid = gettid();

	convert(0);
	lodging.lodger = create(lodger_run, NULL, 0, NULL);
	thread = thread_start(visitor_run, NULL);
	CHECK_OK(fiber_switch(lodging.lodger));
	CHECK(gettid() != tid);
	CHECK_ERR(request(device, FIBER_IOC_REVERT, 0), EINVAL);
	CHECK_EQ(self(), 1);
	atomic_store(&lodging.done, true);
	/* Back to the visitor; the lodger brings this fiber home. */
	CHECK_OK(fiber_switch(lodging.visitor));
	CHECK(gettid() == tid);
	thread_join(thread);
	revert();
}

TEST(bad_arguments_change_nothing)
{
	struct fiber_convert args;
	struct counters before;
	char *page;

	counters_wait_none();
	device = device_open();
	before = counters_read();
	for (int bit = 1; bit < 32; bit++) {
		args = (struct fiber_convert) { .size = sizeof(args), .flags = 1U << bit, .id = POISON };
		CHECK_ERR(request(device, FIBER_IOC_CONVERT, (unsigned long)&args), EINVAL);
		CHECK_EQ(args.id, POISON);
	}
	CHECK_ERR(request(device, FIBER_IOC_CONVERT, 0), EFAULT);
	CHECK_ERR(request(device, FIBER_IOC_CONVERT, ~0UL), EFAULT);

	/* Can be read, but takes no id. */
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	args = (struct fiber_convert) { .size = sizeof(args) };
	memcpy(page, &args, sizeof(args));
	CHECK(mprotect(page, 4096, PROT_READ) == 0);
	CHECK_ERR(request(device, FIBER_IOC_CONVERT, (unsigned long)page), EFAULT);
	counters_wait(before);
	check_all_eperm();
	/* Not even an id is lost. */
	CHECK_EQ(convert(0), 1);
}

TEST(version_is_for_everybody)
{
	device = device_open();
	CHECK_EQ((uint64_t)request(device, FIBER_IOC_VERSION, 0), FIBER_ABI_VERSION);
	CHECK_EQ((uint64_t)request(device, FIBER_IOC_VERSION, ~0UL), FIBER_ABI_VERSION);
	convert(0);
	CHECK_EQ((uint64_t)request(device, FIBER_IOC_VERSION, 0), FIBER_ABI_VERSION);
}
