/* SPDX-License-Identifier: MIT */
/* A worker process: its threads, and all that is done besides requests. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "call.h"
#include "fuzz.h"

int process_number;
uint64_t round_number;
bool deadly;	/* a round in which stacks of suspended fibers are unmapped */
bool alone;	/* a forked child, or the image after execve() */
enum ending ending;
atomic_int living;
_Atomic uint64_t members[MEMBERS];	/* ids of created fibers, by the place of their stack */
_Atomic uint64_t owns[THREADS_MAX + STARTS_MAX], stale[16];
atomic_uint owns_next, stale_next;
atomic_int tids[THREADS_MAX + STARTS_MAX], children[4];
char *stacks;
char *pages;	/* one to write, one to read, one for nobody */
char scratch[65536];
char *late;	/* pages that come when the leader gives them, and go again */

/* Says which of those somebody waits for; -1: they are ordinary ones. */
static int late_faults = -1;

/* Of this thread. */
static __thread struct {
	uint64_t random, handler_random;
	long steps;
	bool begun;
	int number;
	uint64_t *cover;
	stack_t alternate;
} self;
/* While this is set no handler leaves the fiber, so that what was read of `self` is this thread's. */
static __thread volatile int quiet;

__attribute__((noreturn)) static void end_process(int status)
{
	for (;;)
		CALL(SYS_exit_group, status, 0, 0, 0);
}

void fail(const char *format, ...)
{
	va_list args;

	if (!atomic_exchange(&shared->failed, true)) {
		int size = snprintf(shared->failure, sizeof(shared->failure),
				    "process %d round %llu: ", process_number,
				    (unsigned long long)round_number);

		va_start(args, format);
		vsnprintf(shared->failure + size, sizeof(shared->failure) - (size_t)size, format, args);
		va_end(args);
	}
	end_process(3);
}

/* Coverage: KCOV writes the addresses that the thread's system calls pass; here they are merged. */

static void cover_start(void)
{
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);
	void *map;

	if (fd < 0 || ioctl(fd, KCOV_INIT_TRACE, COVER_SIZE))
		fail("cannot use KCOV: %s", strerror(errno));
	map = mmap(NULL, COVER_SIZE * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED || ioctl(fd, KCOV_ENABLE, 0))
		fail("cannot use KCOV: %s", strerror(errno));
	self.cover = map;
}

static void cover_merge(uint64_t *cover)
{
	uint64_t count = cover[0];

	if (count >= COVER_SIZE - 1)
		atomic_fetch_add(&shared->pcs_lost, 1);
	for (uint64_t i = 1; i <= count && i < COVER_SIZE; i++) {
		uint64_t pc = cover[i];
		unsigned int place = mix(pc) % PCS, tries;

		for (tries = 0; tries < 64; tries++, place = (place + 1) % PCS) {
			uint64_t found = atomic_load_explicit(&shared->pcs[place], memory_order_relaxed);

			if (!found)
				atomic_compare_exchange_strong(&shared->pcs[place], &found, pc);
			if (!found || found == pc)
				break;
		}
		if (tries == 64)
			atomic_fetch_add(&shared->pcs_lost, 1);
	}
	cover[0] = 0;
}

/* Opens it under a number of ours. */
static void open_as(int number, const char *path, int flags)
{
	long fd = CALL(SYS_open, path, flags | O_NONBLOCK, 0, 0);

	if (fd < 0)
		return;
	CALL(SYS_dup2, fd, number, 0, 0);
	CALL(SYS_close, fd, 0, 0, 0);
}

static void proc(const struct step *step)
{
	static const int sizes[] = { 1, 23, 24, 25, 64, 100, 511, 4000, 65535 };
	int pid, held = HELD_FD + (int)(step->b >> 8 & (HELD_FDS - 1));
	size_t size = (size_t)sizes[(step->b >> 16) % ARRAY_SIZE(sizes)];
	uint64_t id = step->b >> 20 & 1 ? any_id(step->c) : 1 + (step->c >> 8) % 64;
	long offset = (long)(step->b >> 24 & 0x7ff);
	char folder[64], path[96];
	void *pointer = any_pointer(step->c, scratch, size);

	if (step->a >> 8 & 1)
		pid = atomic_load(&shared->pids[(step->a >> 16) % (unsigned int)shared->processes]);
	else if (step->a >> 9 & 3)
		pid = (int)CALL(SYS_getpid, 0, 0, 0, 0);
	else
		pid = atomic_load(&children[(step->a >> 16) % ARRAY_SIZE(children)]);
	if (shared->proc_pid != !(step->a >> 24 & 15)) {
		snprintf(folder, sizeof(folder), "/proc/%d/fiber", pid);
		snprintf(path, sizeof(path), "%s/%llu", folder, (unsigned long long)id);
	} else {
		strcpy(folder, "/proc/fiber");
		strcpy(path, folder);
	}

	switch (step->a >> 32 & 15) {
	case 0 ... 2:
		open_as(held, folder, O_RDONLY | O_DIRECTORY);
		break;
	case 3 ... 5:
		open_as(held, path, O_RDONLY);
		break;
	case 6:
		open_as(held, path, (int)(step->c & 3));
		CALL(SYS_write, held, scratch, size % 64, 0);
		break;
	case 7:
		CALL(SYS_readlink, step->c & 1 ? path : folder, pointer, size, 0);
		break;
	case 8:
		CALL(SYS_chdir, step->c & 1 ? folder : "/", 0, 0, 0);
		break;
	case 9:
		CALL(SYS_stat, step->c & 1 ? path : folder, scratch, 0, 0);
		CALL(SYS_chmod, step->c & 2 ? path : folder, 0777, 0, 0);
		break;
	case 10:
		CALL(SYS_lseek, held, step->c % 70 ? offset : (long)step->c, step->c & 1, 0);
		break;
	case 11:
		/* The listing of a whole /proc/PID, where the name comes in. */
		snprintf(path, sizeof(path), "/proc/%d", pid);
		open_as(held, path, O_RDONLY | O_DIRECTORY);
		for (int i = 0; i < 8 && CALL(SYS_getdents64, held, scratch, 1000 + size, 0) > 0; i++)
			;
		break;
	}
	/* Whatever is held: a file, a directory, of a process that may be gone. */
	CALL(SYS_pread64, held, pointer, size, offset);
	CALL(SYS_read, held, pointer, size, 0);
	for (int i = 0; i < 4 && CALL(SYS_getdents64, held, pointer, size, 0) > 0; i++)
		;
	if (step->c >> 60 & 1)
		CALL(SYS_close, held, 0, 0, 0);
}

/* The stack of a member that has no fiber. */
static void remap(const struct step *step)
{
	unsigned int place = step->a % MEMBERS;
	char *stack = stacks + place * STACK_SIZE;
	uint64_t none = 0;

	if (!atomic_compare_exchange_strong(&members[place], &none, TAKEN))
		return;
	if (step->b & 1)
		CALL(SYS_munmap, stack, STACK_SIZE, 0, 0);
	if (mmap(stack, STACK_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != stack)
		fail("cannot map a stack");
	atomic_store(&members[place], 0);
}

/* That of a member that has one: who switches to it crashes. */
static void unmap(const struct step *step)
{
	char *stack = stacks + step->a % MEMBERS * STACK_SIZE;

	if (!deadly)
		return;
	if (step->b & 1)
		CALL(SYS_munmap, stack, STACK_SIZE, 0, 0);
	else
		CALL(SYS_mprotect, stack, STACK_SIZE, PROT_NONE, 0);
}

static bool crashed(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL;
}

static void reap(unsigned int place, bool kill_it)
{
	int pid = atomic_exchange(&children[place], 0), status = 0;

	if (pid <= 0)
		return;
	if (kill_it)
		CALL(SYS_kill, pid, SIGKILL, 0, 0);
	while (CALL(SYS_wait4, pid, &status, __WALL, 0) == -EINTR)
		;
	if (crashed(status) && !deadly)
		fail("a child crashed: status 0x%x", status);
}

__attribute__((noreturn)) static void child_exec(uint64_t seed, bool in_deadly)
{
	char words[4][24];
	char *argv[] = { "fuzz", "--child", words[0], words[1], words[2], words[3], NULL };
	char *none[] = { NULL };
	unsigned long all = ~0UL;

	/* What is pending waits for the new image's handlers. */
	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &all, 0, 8);
	snprintf(words[0], sizeof(words[0]), "%llu", (unsigned long long)seed);
	snprintf(words[1], sizeof(words[1]), "%d", process_number);
	snprintf(words[2], sizeof(words[2]), "%llu", (unsigned long long)round_number);
	snprintf(words[3], sizeof(words[3]), "%d", in_deadly);
	atomic_fetch_add(&shared->execs, 1);
	CALL(SYS_execve, "/proc/self/exe", argv, none, 0);
	fail("cannot execute myself");
}

__attribute__((noreturn)) static void wander(void);

/* In the forked child, on the stack and as the copy of some fiber of the parent's. */
__attribute__((noreturn, noinline)) static void child_run(const struct step *step)
{
	struct timespec time = { 1, 0 };

	alone = true;
	/* The others are of another process; the stack that this runs on is not free. */
	for (unsigned int i = 0; i < MEMBERS; i++)
		if (atomic_load(&members[i]))
			atomic_store(&members[i], TAKEN);
	for (unsigned int i = 0; i < ARRAY_SIZE(children); i++)
		atomic_store(&children[i], 0);
	self.cover = NULL;
	self.random = step->a;
	self.steps = CHILD_STEPS / 4;
	CALL(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
	switch (step->b >> 8 & 7) {
	case 0:
		child_exec(step->a, deadly);
	case 1:
		CALL(SYS_nanosleep, &time, 0, 0, 0);
		end_process(0);
	case 2 ... 3:
		/* With the parent's descriptors. */
		wander();
	default:
		self.steps = CHILD_STEPS;
		open_as(DEVICE_FD, FIBER_DEVICE, O_RDWR);
		wander();
	}
}

static void fork_child(const struct step *step)
{
	unsigned int place = step->c % ARRAY_SIZE(children);
	long pid;

	if (alone)
		return;
	reap(place, step->b & 1);
	atomic_fetch_add(&shared->forks, 1);
	pid = CALL(SYS_fork, 0, 0, 0, 0);
	if (!pid)
		child_run(step);
	/* Whoever put another one there meanwhile loses the place, not the child. */
	pid = atomic_exchange(&children[place], (int)pid);
	if (pid > 0) {
		int status;

		CALL(SYS_kill, pid, SIGKILL, 0, 0);
		while (CALL(SYS_wait4, pid, &status, __WALL, 0) == -EINTR)
			;
	}
}

/* The same memory, another process: a request on the parent's descriptor is refused. */
static void vfork_child(const struct step *step)
{
	unsigned int command = step->a % UNKNOWN;
	unsigned long arg = live_id(step->b);
	volatile long result = -EPERM;
	long pid;

	if (alone || command == VERSION)
		return;
	/* On this stack, which the parent leaves alone until then. */
	pid = CALL(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0);
	if (!pid) {
		result = CALL(SYS_ioctl, DEVICE_FD, kinds[command].cmd, arg, 0);
		end_process(0);
	}
	while (pid > 0 && CALL(SYS_wait4, pid, 0, __WALL, 0) == -EINTR)
		;
	if (result != -EPERM)
		fail("%s gave %ld to a process that only shares memory", kinds[command].name, result);
}

/* The same memory and a descriptor of its own: fibers of its own, whatever becomes of them. */
static void kin_child(const struct step *step)
{
	long pid;

	if (alone)
		return;
	/* On this stack, as above, and with what this thread has in its own memory. */
	pid = CALL(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0);
	if (!pid) {
		struct fiber_convert args = { .size = sizeof(args), .flags = step->a & 1 };
		struct fiber_snapshot snapshot = { .size = sizeof(snapshot), .id = 1 };
		long fd = CALL(SYS_open, FIBER_DEVICE, O_RDWR | O_CLOEXEC, 0, 0);

		/* None of it succeeds or fails for certain: max_fibers may be all but reached. */
		CALL(SYS_ioctl, fd, FIBER_IOC_CONVERT, &args, 0);
		CALL(SYS_ioctl, fd, FIBER_IOC_SWITCH, live_id(step->b), 0);
		CALL(SYS_ioctl, fd, FIBER_IOC_STAT, &snapshot, 0);
		if (step->a >> 1 & 1)
			CALL(SYS_ioctl, fd, FIBER_IOC_REVERT, 0, 0);
		if (step->a >> 2 & 1)
			CALL(SYS_close, fd, 0, 0, 0);
		if (step->a >> 3 & 1)
			CALL(SYS_kill, CALL(SYS_getpid, 0, 0, 0, 0), SIGKILL, 0, 0);
		end_process(0);
	}
	while (pid > 0 && CALL(SYS_wait4, pid, 0, __WALL, 0) == -EINTR)
		;
}

__attribute__((noreturn)) static void thread_exit(void)
{
	if (alone)
		end_process(0);
	atomic_fetch_sub(&living, 1);
	for (;;)
		CALL(SYS_exit, 0, 0, 0, 0);
}

/* While the other threads are in the middle of something. */
static void end_round(void)
{
	switch (ending) {
	case EXIT_GROUP:
		end_process(0);
	case SIGKILLED:
		CALL(SYS_kill, CALL(SYS_getpid, 0, 0, 0, 0), SIGKILL, 0, 0);
		break;
	case EXECVE:
		child_exec(round_number, deadly);
	default:
		break;
	}
}

/* Rounding is of no matter: workers do not calculate with fractions. */
static void spoil_vectors(const struct step *step)
{
	uint32_t mxcsr = 0x1f80 | (uint32_t)(step->b & 3) << 13;
	uint16_t fcw = (uint16_t)(0x37f ^ (step->b >> 2 & 3) << 10);

	__asm__ volatile("movq %0, %%xmm0\n\tmovq %0, %%xmm15\n\tfldpi\n\tfstp %%st(0)\n\t"
			 "ldmxcsr %1\n\tfldcw %2"
			 : : "r" (step->a), "m" (mxcsr), "m" (fcw) : "xmm0", "xmm15");
}

static void perform(const struct step *step, enum place place)
{
	int number = DEVICE_FD + 1 + (int)(step->a % (DEVICE_FDS - 1));
	unsigned long mask = (1UL << (SIGUSR1 - 1)) | (1UL << (SIGTERM - 1));

	atomic_fetch_add_explicit(&shared->steps[step->kind], 1, memory_order_relaxed);
	if (step->kind < REQUESTS) {
		perform_request(step, place);
		return;
	}
	switch (step->kind) {
	case FLS_FILL:
		fls_fill(step);
		break;
	case OPEN:
		open_as(number, FIBER_DEVICE, O_RDWR);
		break;
	case CLOSE:
		CALL(SYS_close, number, 0, 0, 0);
		break;
	case DUP:
		CALL(SYS_dup2, DEVICE_FD + step->b % DEVICE_FDS, number, 0, 0);
		break;
	case PROC:
		proc(step);
		break;
	case REMAP:
		remap(step);
		break;
	case UNMAP:
		unmap(step);
		break;
	case FORK:
		fork_child(step);
		break;
	case VFORK:
		vfork_child(step);
		break;
	case KIN:
		kin_child(step);
		break;
	case KILL:
		reap(step->a % ARRAY_SIZE(children), true);
		break;
	case SIGNAL:
		if (!alone)
			CALL(SYS_tgkill, CALL(SYS_getpid, 0, 0, 0, 0),
			     atomic_load(&tids[step->a % ARRAY_SIZE(tids)]),
			     step->b & 1 ? SIGUSR1 : SIGUSR2, 0);
		break;
	case MASK:
		mask &= step->a;
		CALL(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, 8);
		break;
	case VECTORS:
		spoil_vectors(step);
		break;
	case AFFINITY:
		mask = step->a & ((1UL << shared->processors) - 1);
		CALL(SYS_sched_setaffinity, 0, sizeof(mask), &mask, 0);
		break;
	case PRCTL:
		if (step->a & 1)
			CALL(SYS_prctl, PR_SET_DUMPABLE, step->a >> 1 & 1, 0, 0);
		else
			CALL(SYS_prctl, PR_SET_NAME, "fuzz\n(thread) x", 0, 0);
		break;
	case YIELD:
		CALL(SYS_sched_yield, 0, 0, 0, 0);
		break;
	default:
		/* In the middle of whatever fiber this is. */
		thread_exit();
	}
}

/* Both under `quiet`, and in functions of their own, so that all they read is one thread's. */

__attribute__((noinline)) static bool take_step(struct step *step)
{
	long left = self.steps--;

	if (self.cover && self.cover[0] > COVER_SIZE / 2)
		cover_merge(self.cover);
	if (left <= 0 || atomic_load(&shared->stop) || atomic_load(&shared->calls) >= shared->goal) {
		if (self.cover)
			cover_merge(self.cover);
		return false;
	}
	*step = step_of_thread(&self.random, !self.begun);
	self.begun = true;
	if (step->kind == EXIT && self.cover)
		cover_merge(self.cover);
	return true;
}

__attribute__((noinline)) static bool is_last_half(void)
{
	return self.number == 0 && self.steps < STEPS / 2 && !alone;
}

__attribute__((noinline)) static void take_handler_step(struct step *step)
{
	*step = step_draw(&self.handler_random);
}

static void wander(void)
{
	for (;;) {
		struct step step;
		bool more, end;

		quiet = 1;
		more = take_step(&step);
		end = is_last_half();
		quiet = 0;
		if (!more)
			thread_exit();
		if (end)
			end_round();
		perform(&step, NORMAL);
	}
}

static void unblock(void)
{
	unsigned long none = 0;

	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
}

void body(void *arg)
{
	(void)arg;
	/* It may have been created in a handler. */
	unblock();
	wander();
}

__attribute__((noinline)) static void give_alternate(ucontext_t *context)
{
	context->uc_stack = self.alternate;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	struct step step;

	(void)info;
	if (quiet || alone)
		return;
	quiet = 1;
	take_handler_step(&step);
	quiet = 0;
	if (step.kind < REQUESTS)
		perform(&step, number == SIGUSR2 ? ALTERNATE : HANDLER);
	/*
	 * The return from a handler sets the alternate stack that the thread had when the signal
	 * came. This may be another thread by now: two would share one. No handler comes in
	 * between, see sa_mask.
	 */
	give_alternate(context);
}

static void *thread_main(void *arg)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM };
	struct itimerspec interval = { 0 };
	int tid = (int)CALL(SYS_gettid, 0, 0, 0, 0);
	timer_t timer;

	self.number = (int)(intptr_t)arg;
	self.random = stream(shared->seed, (unsigned int)process_number, round_number,
			     (unsigned int)self.number);
	self.handler_random = ~self.random;
	self.steps = STEPS;
	atomic_store(&tids[self.number], tid);
	if (shared->kcov)
		cover_start();
	self.alternate.ss_size = ALTERNATE_SIZE;
	self.alternate.ss_sp = mmap(NULL, THREAD_BLOCK, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	event._sigev_un._tid = tid;
	interval.it_interval.tv_nsec = interval.it_value.tv_nsec =
		500000 + (long)(mix(self.random) % 8000000);
	if (self.alternate.ss_sp == MAP_FAILED || sigaltstack(&self.alternate, NULL) ||
	    timer_create(CLOCK_MONOTONIC, &event, &timer) ||
	    timer_settime(timer, 0, &interval, NULL))
		fail("a thread cannot start: %s", strerror(errno));
	unblock();
	wander();
	return NULL;
}

/* Nothing of it is ever unmapped: another thread may run its frames. Returns whether it runs. */
static bool thread_start(int number)
{
	pthread_attr_t attr;
	pthread_t thread;
	void *block = mmap(NULL, THREAD_BLOCK, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err;

	if (block == MAP_FAILED)
		fail("no memory for a thread: %s", strerror(errno));
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, block, THREAD_BLOCK);
	atomic_fetch_add(&living, 1);
	err = pthread_create(&thread, &attr, thread_main, (void *)(intptr_t)number);
	if (!err)
		return true;
	/* The kernel's answer while another thread is on its way through execve(). */
	if (err != EAGAIN || ending != EXECVE)
		fail("cannot start a thread: %s", strerror(err));
	atomic_fetch_sub(&living, 1);
	munmap(block, THREAD_BLOCK);
	return false;
}

/*
 * Late pages, where the kernel has userfaultfd. Only a worker's leader gives them, so that they are
 * ordinary ones in its children, and where the leader ends first.
 */
static void late_setup(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)late, .len = LATE_PAGES * PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	late_faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (late_faults >= 0 && !ioctl(late_faults, UFFDIO_API, &api) &&
	    !ioctl(late_faults, UFFDIO_REGISTER, &range))
		return;
	close(late_faults);
	late_faults = -1;
}

/* Who has waited goes on; now and then all pages are missing again. */
static void late_serve(void)
{
	static unsigned int turns;
	struct uffd_msg message;

	if (late_faults < 0)
		return;
	while (read(late_faults, &message, sizeof(message)) == sizeof(message)) {
		struct uffdio_zeropage zero = {
			.range = {
				.start = message.arg.pagefault.address & ~(PAGE - 1), .len = PAGE,
			},
		};

		/* Two threads may have waited for the same one: EEXIST. */
		(void)ioctl(late_faults, UFFDIO_ZEROPAGE, &zero);
	}
	if (++turns % 8 == 0)
		madvise(late, LATE_PAGES * PAGE, MADV_DONTNEED);
}

static void process_setup(void)
{
	static const int storms[] = { SIGALRM, SIGUSR1, SIGUSR2 };
	struct fiber_create *create_args;

	stacks = mmap(NULL, MEMBERS * STACK_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	late = mmap(NULL, LATE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	if (stacks == MAP_FAILED || pages == MAP_FAILED || late == MAP_FAILED)
		fail("no memory");
	/* All but the output is right. */
	create_args = (void *)(pages + PAGE);
	create_args->size = sizeof(*create_args);
	create_args->entry = (uintptr_t)body;
	create_args->stack_start = (uintptr_t)stacks;
	create_args->stack_size = STACK_SIZE;
	if (mprotect(pages + PAGE, PAGE, PROT_READ) || mprotect(pages + 2 * PAGE, 2 * PAGE, PROT_NONE))
		fail("cannot protect pages");
	for (size_t i = 0; i < ARRAY_SIZE(storms); i++) {
		struct sigaction action = {
			.sa_sigaction = on_signal,
			.sa_flags = SA_SIGINFO | (storms[i] == SIGUSR2 ? SA_ONSTACK : 0),
		};

		for (size_t j = 0; j < ARRAY_SIZE(storms); j++)
			sigaddset(&action.sa_mask, storms[j]);
		sigaction(storms[i], &action, NULL);
	}
}

static void device_open(void)
{
	/* Processes of earlier rounds may still have to give back what they were charged. */
	for (int i = 0; i < 30000; i++) {
		open_as(DEVICE_FD, FIBER_DEVICE, O_RDWR);
		if (fcntl(DEVICE_FD, F_GETFD) >= 0)
			return;
		usleep(1000);
	}
	fail("cannot open " FIBER_DEVICE "; hint: load the module");
}

struct round round_draw(int process, uint64_t round)
{
	uint64_t random = stream(shared->seed, (unsigned int)process, round, UINT32_MAX);
	struct round drawn;

	drawn.threads = random_next(&random) % 4 ? shared->threads : 1;
	drawn.ending = random_next(&random) % ENDINGS;
	drawn.deadly = !(random_next(&random) % 4);
	return drawn;
}

void worker(int process, uint64_t round)
{
	struct round drawn = round_draw(process, round);
	struct timespec pause = { 0, 1000000 };
	int started, wanted = drawn.threads;
	sigset_t all;

	process_number = process;
	round_number = round;
	ending = drawn.ending;
	deadly = drawn.deadly;
	process_setup();
	if (ending != LEADER_FIRST)
		late_setup();
	device_open();
	/* The leader starts threads and is no fiber. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (started = 0; started < wanted; started++)
		if (!thread_start(started))
			break;
	if (ending == LEADER_FIRST)
		for (;;)
			CALL(SYS_exit, 0, 0, 0, 0);
	while (atomic_load(&living) || started < wanted) {
		nanosleep(&pause, NULL);
		late_serve();
		/* In place of those that ended early. */
		if (atomic_load(&living) < wanted && started < wanted + STARTS_MAX &&
		    !atomic_load(&shared->stop) && atomic_load(&shared->calls) < shared->goal)
			started += thread_start(started);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(children); i++)
		reap(i, true);
	_exit(0);
}

void child_role(char **words)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
	if (shared == MAP_FAILED)
		_exit(3);
	alone = true;
	self.random = strtoull(words[0], NULL, 10);
	process_number = atoi(words[1]);
	round_number = strtoull(words[2], NULL, 10);
	deadly = atoi(words[3]);
	process_setup();
	unblock();
	for (int kind = CONVERT; kind < UNKNOWN; kind++)
		if (request(kind, DEVICE_FD, 0) != -EPERM)
			fail("%s is for a descriptor kept over execve()", kinds[kind].name);
	device_open();
	self.steps = CHILD_STEPS;
	wander();
}

