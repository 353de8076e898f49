/* SPDX-License-Identifier: MIT */
/*
 * A process of several threads for the model check (agent.py). Every thread has
 * a lane: a socket on which it takes one command at a time and gives one answer.
 * What a thread does is what the fiber does that it runs; all fibers have the
 * same body, and whichever comes to run on a thread answers on that one's lane.
 *
 *	struct N CMD HEX	N times the request, with these bytes as its argument
 *	readonly N CMD HEX	the same, on a page that cannot be written to
 *	value N CMD NUMBER	the same, with the number itself
 *	switch ID		FIBER_IOC_SWITCH, with known values in the registers
 *	alternate ID		the same, on the alternate signal stack
 *	words MXCSR FCW MASK	sets the control words and the blocked signals
 *	thread LANE		starts a thread
 *	exit			ends this one
 *
 * An answer is "done RESULT HEX" or, from a fiber that has just begun, "started
 * ARG -"; then, after either: tid, own id or 0, MXCSR, x87 control word, mask.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

#define LANES 8
#define STACKS_SIZE (64UL << 20)
#define ARGUMENT_MAX 256
#define LINE_SIZE 1024

struct lane {
	int fd;
	pid_t tid;
	uint64_t alternate_id;
	long alternate_result;
	char alternate[32768] __attribute__((aligned(64)));
};

static struct lane lanes[LANES];
static char page[4096] __attribute__((aligned(4096)));

/* Of the thread that this runs on now. Ask again after each switch. */
static __attribute__((noinline)) struct lane *here(void)
{
	pid_t tid = gettid();

	for (int i = 0; i < LANES; i++)
		if (lanes[i].tid == tid)
			return &lanes[i];
	check_failed(__FILE__, __LINE__, "thread %d has no lane", tid);
}

/*
 * The request FIBER_IOC_SWITCH with registers that depend on the seed, which
 * must be the same when it returns.
 */
long switch_seeded(int fd, unsigned long cmd, uint64_t id, uint64_t seed);
extern const char switch_seeded_resume[];
__asm__(".text\n"
	".type switch_seeded, @function\n"
	"switch_seeded:\n"
	"pushq %rbx\n"
	"pushq %rbp\n"
	"pushq %r12\n"
	"pushq %r13\n"
	"pushq %r14\n"
	"pushq %r15\n"
	"pushq %rcx\n"
	"movq %rcx, %rbx\n"
	"leaq 1(%rcx), %rbp\n"
	"leaq 2(%rcx), %r12\n"
	"leaq 3(%rcx), %r13\n"
	"leaq 4(%rcx), %r14\n"
	"leaq 5(%rcx), %r15\n"
	"movl $16, %eax\n"		/* ioctl */
	"syscall\n"
	"switch_seeded_resume:\n"
	"popq %rcx\n"
	"xorq %rcx, %rbx\n"
	"incq %rcx\n"
	"xorq %rcx, %rbp\n"
	"orq %rbp, %rbx\n"
	"incq %rcx\n"
	"xorq %rcx, %r12\n"
	"orq %r12, %rbx\n"
	"incq %rcx\n"
	"xorq %rcx, %r13\n"
	"orq %r13, %rbx\n"
	"incq %rcx\n"
	"xorq %rcx, %r14\n"
	"orq %r14, %rbx\n"
	"incq %rcx\n"
	"xorq %rcx, %r15\n"
	"orq %r15, %rbx\n"
	"je 1f\n"
	"movq $-9999, %rax\n"		/* which no request returns */
	"1:\n"
	"popq %r15\n"
	"popq %r14\n"
	"popq %r13\n"
	"popq %r12\n"
	"popq %rbp\n"
	"popq %rbx\n"
	"ret\n"
	".size switch_seeded, . - switch_seeded\n");

static void speak(int fd, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static void speak(int fd, const char *format, ...)
{
	char text[LINE_SIZE];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	/* Nobody listens any more: the test is over. */
	if (send(fd, text, (size_t)length, MSG_NOSIGNAL) != length)
		_exit(0);
}

static uint64_t mask_change(const uint64_t *new)
{
	uint64_t old;

	CHECK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, new, &old, sizeof(old)) == 0);
	return old;
}

static void answer(const char *kind, long long number, const char *hex)
{
	struct lane *lane = here();
	uint32_t mxcsr;
	uint16_t fcw;
	uint64_t id;

	__asm__ volatile("stmxcsr %0" : "=m" (mxcsr));
	__asm__ volatile("fnstcw %0" : "=m" (fcw));
	if (try_self(&id))
		id = 0;
	speak(lane->fd, "%s %lld %s %d %llu %u %u %llu", kind, number, hex, lane->tid,
	      (unsigned long long)id, mxcsr, fcw, (unsigned long long)mask_change(NULL));
}

static void answer_request(const char *kind, int count, unsigned long cmd, const char *text)
{
	char bytes[ARGUMENT_MAX], hex[2 * ARGUMENT_MAX + 2] = "-", *where = bytes;
	unsigned long arg = strtoul(text, NULL, 0);
	bool by_value = !strcmp(kind, "value"), readonly = !strcmp(kind, "readonly");
	unsigned int byte;
	size_t size = 0;
	long err = 0;

	if (!by_value) {
		while (size < sizeof(bytes) && sscanf(text + 2 * size, "%2x", &byte) == 1)
			bytes[size++] = (char)byte;
		if (readonly) {
			where = memcpy(page, bytes, size);
			CHECK(mprotect(page, sizeof(page), PROT_READ) == 0);
		}
		arg = (uintptr_t)where;
	}
	while (count-- && err >= 0)
		err = request(device, cmd, arg);
	for (size_t i = 0; i < size; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)where[i]);
	if (readonly)
		CHECK(mprotect(page, sizeof(page), PROT_READ | PROT_WRITE) == 0);
	answer("done", err, hex);
}

static void on_alarm(int number)
{
	struct lane *lane = here();

	(void)number;
	lane->alternate_result = fiber_switch(lane->alternate_id);
}

static void answer_alternate(uint64_t id)
{
	struct lane *lane = here();
	stack_t on = { .ss_sp = lane->alternate, .ss_size = sizeof(lane->alternate) };
	stack_t off = { .ss_flags = SS_DISABLE };

	lane->alternate_id = id;
	CHECK(sigaltstack(&on, NULL) == 0);
	CHECK(syscall(SYS_tgkill, getpid(), lane->tid, SIGALRM) == 0);
	CHECK(sigaltstack(&off, NULL) == 0);
	answer("done", lane->alternate_result, "-");
}

static void answer_words(uint32_t mxcsr, uint16_t fcw, uint64_t mask)
{
	mask_change(&mask);
	__asm__ volatile("ldmxcsr %0" : : "m" (mxcsr));
	__asm__ volatile("fldcw %0" : : "m" (fcw));
	answer("done", 0, "-");
}

static void end(void)
{
	/* Another thread may get this lane, or this tid. */
	here()->tid = 0;
	thread_exit_raw();
}

static void *thread(void *arg);

static void obey(char *line)
{
	static uint64_t seed;
	char *words[5] = { "", "", "", "", "" }, *rest = line, *word;

	for (int i = 0; i < 5 && (word = strtok_r(rest, " ", &rest)); i++)
		words[i] = word;
	if (!strcmp(words[0], "switch"))
		answer("done", switch_seeded(device, FIBER_IOC_SWITCH, strtoull(words[1], NULL, 0),
					     seed += 0x9e3779b97f4a7c15), "-");
	else if (!strcmp(words[0], "alternate"))
		answer_alternate(strtoull(words[1], NULL, 0));
	else if (!strcmp(words[0], "words"))
		answer_words((uint32_t)strtoul(words[1], NULL, 0),
			     (uint16_t)strtoul(words[2], NULL, 0), strtoull(words[3], NULL, 0));
	else if (!strcmp(words[0], "thread")) {
		thread_start_on_lasting_stack(thread, &lanes[atoi(words[1])]);
		answer("done", 0, "-");
	} else if (!strcmp(words[0], "exit"))
		end();
	else
		answer_request(words[0], atoi(words[1]), strtoul(words[2], NULL, 0), words[3]);
}

static __attribute__((noreturn)) void serve(void)
{
	char line[LINE_SIZE];

	for (;;) {
		ssize_t length = recv(here()->fd, line, sizeof(line) - 1, 0);

		if (length <= 0)
			_exit(0);
		line[length] = '\0';
		obey(line);
	}
}

/* Of every fiber that is created. */
static void body(void *arg)
{
	answer("started", (long long)(uintptr_t)arg, "-");
	serve();
}

static void *thread(void *arg)
{
	struct lane *lane = arg;

	lane->tid = gettid();
	answer("started", 0, "-");
	serve();
	return arg;
}

static void on_signal(int number)
{
	(void)number;
}

/* AGENT_LANES: the lanes' descriptors, with a comma between two. */
TEST(serve_lanes)
{
	struct sigaction nothing = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	struct sigaction alarm_ = { .sa_handler = on_alarm, .sa_flags = SA_ONSTACK };
	char *text = getenv("AGENT_LANES");
	void *stacks;

	CHECK(text);
	for (int i = 0; i < LANES && *text; i++)
		lanes[i].fd = (int)strtol(text + !!i, &text, 10);
	lanes[0].tid = gettid();
	CHECK(sigaction(SIGUSR1, &nothing, NULL) == 0);
	CHECK(sigaction(SIGALRM, &alarm_, NULL) == 0);
	device = device_open();
	stacks = mmap(NULL, STACKS_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(stacks != MAP_FAILED);
	speak(lanes[0].fd, "hello %llu %llu %llu %lu", (unsigned long long)(uintptr_t)body,
	      (unsigned long long)(uintptr_t)switch_seeded_resume,
	      (unsigned long long)(uintptr_t)stacks, STACKS_SIZE);
	answer("started", 0, "-");
	serve();
}
