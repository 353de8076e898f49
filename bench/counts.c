/* SPDX-License-Identifier: MIT */
/*
 * What the module's requests cost, by the time-stamp counter, which counts instructions where the
 * machine is emulated with -icount. Raw requests: no library in between.
 *
 *	counts FIBERS [fpu]
 *
 * FIBERS is how many there are in the process, at least 2. What a look-up costs may depend on which
 * fiber asks (a scan of all fibers ends at the calling one), so a request of a fiber is measured in
 * each of them: they form a ring, and LAPS times each makes its requests and switches to the
 * next. A figure is the mean over all fibers of each one's least, in which no interrupt is; the
 * others are medians of ROUNDS rounds. With "fpu" each fiber has the whole FPU state.
 *
 * Prints a line a request: name, figure, and the least and most of what it is the mean or median of.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <unistd.h>

#include "request.h"

#define LAPS	5
#define ROUNDS	301
#define STACK	16384

enum { CREATE, DELETE, ALLOC, FREE, SET, GET, REFUSED, SWITCH, LAP_REQUESTS };

static const char *const lap_names[] = {
	"create", "delete", "fls_alloc", "fls_free", "fls_set", "fls_get", "refused_switch", "switch",
};

static int device;
static long fibers;
static uint64_t *ids;
static uint64_t running_elsewhere;
/* The number of the lap; the first one only starts the fibers. */
static int lap = -1;
static uint64_t switched_at;
/* By lap and fiber. */
static uint32_t (*samples[LAPS])[LAP_REQUESTS];
/* Of fibers that never run. */
static void *spare_stack;

static inline uint64_t counter(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static inline uint64_t cost(const struct request *request, long expected)
{
	uint64_t start = counter(), end;
	long result = send(request);

	end = counter();
	if (result != expected) {
		fprintf(stderr, "counts: request %#lx gave %ld, not %ld\n", request->command, result,
			expected);
		exit(1);
	}
	return end - start;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void fiber_body(void *number);

/* All requests of one fiber but the switch. */
static void measure_requests(uint32_t found[LAP_REQUESTS], const struct request *get,
			     const struct request *set, const struct request *refused)
{
	struct request creation, deletion, allocation, release;
	struct fiber_create args;
	uint64_t index = 0;

	create_prepare(&args, fiber_body, 0, spare_stack, STACK, 0);
	creation = create_request(device, &args);
	found[CREATE] = (uint32_t)cost(&creation, 0);
	deletion = delete_request(device, args.id);
	found[DELETE] = (uint32_t)cost(&deletion, 0);
	allocation = fls_alloc_request(device, &index);
	found[ALLOC] = (uint32_t)cost(&allocation, 0);
	release = fls_free_request(device, index);
	found[FREE] = (uint32_t)cost(&release, 0);
	found[SET] = (uint32_t)cost(set, 0);
	found[GET] = (uint32_t)cost(get, 0);
	found[REFUSED] = (uint32_t)cost(refused, -EBUSY);
}

/* What each fiber does, the root fiber too; that one counts the laps and returns after the last. */
static void run_laps(uint64_t number)
{
	uint64_t before = (number + (uint64_t)fibers - 1) % (uint64_t)fibers;
	struct request next, refused, get, set;
	struct fiber_fls args;

	fls_prepare(&args, fls_alloc(device), number);
	get = fls_get_request(device, &args);
	set = fls_set_request(device, &args);
	refused = switch_request(device, running_elsewhere);
	next = switch_request(device, ids[(number + 1) % (uint64_t)fibers]);
	for (;;) {
		uint64_t arrived = counter();

		/* The switch of the fiber before ended here, in the lap in which it began. */
		if (switched_at && lap >= 0)
			samples[lap][before][SWITCH] = (uint32_t)(arrived - switched_at);
		if (!number && switched_at && ++lap == LAPS)
			return;
		if (lap >= 0)
			measure_requests(samples[lap][number], &get, &set, &refused);
		switched_at = counter();
		if (send(&next))
			fail("switch");
	}
}

static void fiber_body(void *number)
{
	run_laps((uint64_t)(uintptr_t)number);
}

static void print_laps(void)
{
	for (int what = 0; what < LAP_REQUESTS; what++) {
		double sum = 0, least = 1e18, most = 0;

		for (long i = 0; i < fibers; i++) {
			double best = 1e18;

			for (int j = 0; j < LAPS; j++)
				if (samples[j][i][what] < best)
					best = samples[j][i][what];
			sum += best;
			least = best < least ? best : least;
			most = best > most ? best : most;
		}
		printf("%s %.2f %.0f %.0f\n", lap_names[what], sum / (double)fibers, least, most);
	}
}

static void print_rounds(const char *name, uint32_t rounds[ROUNDS])
{
	qsort(rounds, ROUNDS, sizeof(rounds[0]), compare);
	printf("%s %u %u %u\n", name, rounds[ROUNDS / 2], rounds[0], rounds[ROUNDS - 1]);
}

static void measure_system_calls(void)
{
	static uint32_t rounds[3][ROUNDS];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	/* TCGETS, which /dev/null does not know. */
	struct request nothing = { null, 0x5401, 0 }, version = version_request(device);
	long known = send(&version);

	if (null < 0)
		fail("/dev/null");
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t start = counter();

		system_call(39, 0, 0, 0);
		rounds[0][i] = (uint32_t)(counter() - start);
		rounds[1][i] = (uint32_t)cost(&nothing, -ENOTTY);
		rounds[2][i] = (uint32_t)cost(&version, known);
	}
	print_rounds("getppid", rounds[0]);
	print_rounds("null_ioctl", rounds[1]);
	print_rounds("version", rounds[2]);
}

/* By a thread that is no fiber, in a process that has all the others. */
static void measure_conversion(void)
{
	static uint32_t rounds[2][ROUNDS];
	struct request conversion = convert_request(device), back = revert_request(device);

	for (int i = 0; i < ROUNDS; i++) {
		rounds[0][i] = (uint32_t)cost(&conversion, 0);
		rounds[1][i] = (uint32_t)cost(&back, 0);
	}
	print_rounds("convert", rounds[0]);
	print_rounds("revert", rounds[1]);
}

static sem_t converted;

/* A fiber that runs all the time, so that each switch to it is refused. */
static void *stays(void *unused)
{
	running_elsewhere = convert(device, 0);
	sem_post(&converted);
	for (;;)
		pause();
	return unused;
}

int main(int argc, char **argv)
{
	bool fpu = argc > 2 && !strcmp(argv[2], "fpu");
	struct request reversion;
	pthread_t other;

	fibers = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
	if (fibers < 2 || argc > 3 || (argc == 3 && !fpu)) {
		fprintf(stderr, "usage: %s FIBERS [fpu], with 2 fibers or more\n", argv[0]);
		return 2;
	}
	device = device_open();
	ids = calloc((size_t)fibers, sizeof(*ids));
	spare_stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!ids || spare_stack == MAP_FAILED)
		fail("no memory");
	for (int i = 0; i < LAPS; i++) {
		samples[i] = calloc((size_t)fibers, sizeof(*samples[i]));
		if (!samples[i])
			fail("no memory");
	}
	sem_init(&converted, 0, 0);
	errno = pthread_create(&other, NULL, stays, NULL);
	if (errno)
		fail("pthread_create");
	while (sem_wait(&converted))
		;
	convert(device, fpu);
	for (long i = 1; i < fibers; i++)
		ids[i] = create(device, fiber_body, (uint64_t)i, STACK, fpu);
	reversion = revert_request(device);
	if (send(&reversion))
		fail("revert");
	measure_system_calls();
	measure_conversion();
	ids[0] = convert(device, fpu);
	run_laps(0);
	print_laps();
	fflush(stdout);
	_exit(0);	/* the other thread never ends */
}
