/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

#define STATUS_SKIP 77
#define CASE_TIMEOUT_MS 120000

int device = -1;
uint64_t fiber_switch_sp;

void check_failed(const char *file, int line, const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	dprintf(STDERR_FILENO, "%s:%d: failed: %s\n", file, line, text);
	_exit(1);
}

void skip(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vdprintf(STDOUT_FILENO, format, args);
	va_end(args);
	dprintf(STDOUT_FILENO, "\n");
	_exit(STATUS_SKIP);
}

static const char *error_name(long err)
{
	const char *name = err ? strerrorname_np((int)-err) : "0";

	return name ? name : "no error number";
}

void check_result(const char *file, int line, const char *call, long got, long wanted)
{
	if (got != wanted)
		check_failed(file, line, "%s gave %ld (%s), not %s", call, got, error_name(got),
			     error_name(wanted));
}

void check_equal(const char *file, int line, const char *what, uint64_t got, uint64_t wanted)
{
	if (got != wanted)
		check_failed(file, line, "%s is %lld (0x%llx), not %lld (0x%llx)", what,
			     (long long)got, (long long)got, (long long)wanted, (long long)wanted);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t now_ms(void)
{
	return now_ns() / 1000000;
}

uint64_t thread_cpu_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* Between two looks at a condition: gives the others the CPU. */
void pause_briefly(void)
{
	struct timespec time = { 0, 500000 };

	nanosleep(&time, NULL);
}

void burn_ns(uint64_t ns)
{
	uint64_t until = thread_cpu_ns() + ns;

	while (thread_cpu_ns() < until)
		for (volatile int i = 0; i < 200; i++)
			;
}

void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	CHECK(sched_setaffinity(0, sizeof(set), &set) == 0);
}

int device_open(void)
{
	int fd = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		check_failed(__FILE__, __LINE__, "cannot open %s: %s", FIBER_DEVICE,
			     strerror(errno));
	return fd;
}

long request(int fd, unsigned long cmd, unsigned long arg)
{
	long result = SYS_ioctl;
	register unsigned long rdi __asm__("rdi") = (unsigned int)fd;
	register unsigned long rsi __asm__("rsi") = cmd;
	register unsigned long rdx __asm__("rdx") = arg;

	__asm__ volatile("syscall"
			 : "+a" (result), "+r" (rdi), "+r" (rsi), "+r" (rdx)
			 :
			 : "rcx", "r8", "r9", "r10", "r11", "cc", "memory");
	return result;
}

/*
 * Never inlined, and in another file than its callers: those must take each
 * register that a called function may change for lost.
 */
__attribute__((noinline)) long fiber_switch(uint64_t id)
{
	long result = SYS_ioctl;
	register unsigned long rdi __asm__("rdi") = (unsigned int)device;
	register unsigned long rsi __asm__("rsi") = FIBER_IOC_SWITCH;
	register unsigned long rdx __asm__("rdx") = id;

	__asm__ volatile("movq %%rsp, fiber_switch_sp(%%rip)\n\t"
			 "syscall\n"
			 ".globl fiber_switch_resume\n"
			 "fiber_switch_resume:"
			 : "+a" (result), "+r" (rdi), "+r" (rsi), "+r" (rdx)
			 :
			 : "rcx", "r8", "r9", "r10", "r11", "cc", "memory");
	return result;
}

long try_convert(uint32_t flags, uint64_t *id)
{
	struct fiber_convert args = { .size = sizeof(args), .flags = flags, .id = POISON };
	long err = request(device, FIBER_IOC_CONVERT, (unsigned long)&args);

	*id = args.id;
	return err;
}

long try_create(const struct fiber_create *args, uint64_t *id)
{
	struct fiber_create copy = *args;
	long err;

	if (!copy.size)
		copy.size = sizeof(copy);
	copy.id = POISON;
	err = request(device, FIBER_IOC_CREATE, (unsigned long)&copy);
	*id = copy.id;
	return err;
}

long try_self(uint64_t *id)
{
	*id = POISON;
	return request(device, FIBER_IOC_SELF, (unsigned long)id);
}

uint64_t convert(uint32_t flags)
{
	uint64_t id;

	if (device < 0)
		device = device_open();
	CHECK_OK(try_convert(flags, &id));
	return id;
}

void revert(void)
{
	CHECK_OK(request(device, FIBER_IOC_REVERT, 0));
}

uint64_t self(void)
{
	uint64_t id;

	CHECK_OK(try_self(&id));
	return id;
}

long fiber_delete(uint64_t id)
{
	return request(device, FIBER_IOC_DELETE, id);
}

long fiber_rename(uint64_t id, const char *name)
{
	struct fiber_name args = { .size = sizeof(args), .id = id };

	strncpy(args.name, name, sizeof(args.name) - 1);
	return request(device, FIBER_IOC_SET_NAME, (unsigned long)&args);
}

long fls_alloc(uint64_t *index)
{
	*index = POISON;
	return request(device, FIBER_IOC_FLS_ALLOC, (unsigned long)index);
}

long fls_free(uint64_t index)
{
	return request(device, FIBER_IOC_FLS_FREE, index);
}

long fls_set(uint64_t index, uint64_t value)
{
	struct fiber_fls args = { sizeof(args), 0, index, value };

	return request(device, FIBER_IOC_FLS_SET, (unsigned long)&args);
}

long fls_get(uint64_t index, uint64_t *value)
{
	struct fiber_fls args = { sizeof(args), 0, index, POISON };
	long err = request(device, FIBER_IOC_FLS_GET, (unsigned long)&args);

	*value = args.value;
	return err;
}

/*
 * What a fiber's entry function returns to. The unwinder looks up the address
 * before a return address, so the function begins one instruction early, and
 * it ends the stack.
 */
void thread_end_stub(void);
__asm__(".text\n"
	".type thread_end_stub, @function\n"
	".cfi_startproc\n"
	".cfi_undefined rip\n"
	"nop\n"
	"thread_end_stub:\n"
	"movl $60, %eax\n"		/* exit */
	"xorl %edi, %edi\n"
	"syscall\n"
	"ud2\n"
	".cfi_endproc\n"
	".size thread_end_stub, . - thread_end_stub\n");

uint64_t stack_top(const void *start, size_t size)
{
	return (((uintptr_t)start + size) & ~15UL) - 8;
}

void *stack_new(size_t size)
{
	void *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(stack != MAP_FAILED);
	*(uint64_t *)stack_top(stack, size) = (uintptr_t)thread_end_stub;
	return stack;
}

uint64_t create(void (*entry)(void *), void *arg, uint32_t flags, const char *name)
{
	struct fiber_create args = {
		.entry = (uintptr_t)entry,
		.arg = (uintptr_t)arg,
		.stack_start = (uintptr_t)stack_new(STACK_SIZE),
		.stack_size = STACK_SIZE,
		.flags = flags,
	};
	uint64_t id;

	strncpy(args.name, name ? name : "", sizeof(args.name) - 1);
	CHECK_OK(try_create(&args, &id));
	return id;
}

static long when_free(uint64_t id, long (*try)(uint64_t))
{
	uint64_t until = now_ms() + DEADLINE_MS;
	long err;

	while ((err = try(id)) == -EBUSY && now_ms() < until)
		pause_briefly();
	return err;
}

long switch_when_free(uint64_t id)
{
	return when_free(id, fiber_switch);
}

long delete_when_free(uint64_t id)
{
	return when_free(id, fiber_delete);
}

pthread_t thread_start(void *(*run)(void *), void *arg)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, run, arg) == 0);
	return thread;
}

pthread_t thread_start_on_lasting_stack(void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;

	CHECK(pthread_attr_init(&attr) == 0);
	CHECK(pthread_attr_setstack(&attr, stack_new(4 * STACK_SIZE), 4 * STACK_SIZE) == 0);
	CHECK(pthread_create(&thread, &attr, run, arg) == 0);
	pthread_attr_destroy(&attr);
	return thread;
}

void thread_join(pthread_t thread)
{
	CHECK(pthread_join(thread, NULL) == 0);
}

void thread_exit_raw(void)
{
	for (;;)
		syscall(SYS_exit, 0);
}

char thread_state(pid_t tid)
{
	char path[64], text[512], *paren;
	FILE *file;
	size_t size;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	file = fopen(path, "r");
	if (!file)
		return 'X';
	size = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[size] = '\0';
	paren = strrchr(text, ')');
	return paren && paren[1] ? paren[2] : 'X';
}

void child_join(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_SKIP)
		_exit(STATUS_SKIP);
	if (status)
		check_failed(__FILE__, __LINE__, "the child ended with status 0x%x", status);
}

pid_t child_start(void (*run)(void))
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		run();
		_exit(0);
	}
	return pid;
}

void in_child(void (*run)(void))
{
	child_join(child_start(run));
}

int child_status(void (*run)(void))
{
	pid_t pid = child_start(run);
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	return status;
}

bool proc_line(pid_t pid, uint64_t id, const char *key, char *value)
{
	char path[64], line[PROC_LINE];
	size_t length = strlen(key);
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/fiber/%llu", pid, (unsigned long long)id);
	file = fopen(path, "r");
	if (!file)
		return false;
	while (!found && fgets(line, sizeof(line), file)) {
		if (strncmp(line, key, length) || strncmp(line + length, ": ", 2))
			continue;
		found = true;
		line[strcspn(line, "\n")] = '\0';
		strcpy(value, line + length + 2);
	}
	fclose(file);
	return found;
}

static void proc_line_checked(uint64_t id, const char *key, char *value)
{
	if (!proc_line(getpid(), id, key, value))
		check_failed(__FILE__, __LINE__, "no line \"%s\" in /proc/%d/fiber/%llu", key,
			     getpid(), (unsigned long long)id);
}

uint64_t proc_number(uint64_t id, const char *key)
{
	char value[PROC_LINE];

	proc_line_checked(id, key, value);
	return strtoull(value, NULL, 0);
}

bool proc_is(uint64_t id, const char *key, const char *wanted)
{
	char value[PROC_LINE];

	proc_line_checked(id, key, value);
	return !strcmp(value, wanted);
}

bool proc_exists(uint64_t id)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fiber/%llu", (unsigned long long)id);
	return !access(path, F_OK);
}

static long counter_read(const char *name)
{
	char path[80];
	FILE *file;
	long value;

	snprintf(path, sizeof(path), "/sys/module/fiber/parameters/%s", name);
	file = fopen(path, "r");
	CHECK(file);
	CHECK(fscanf(file, "%ld", &value) == 1);
	fclose(file);
	return value;
}

struct counters counters_read(void)
{
	return (struct counters) {
		counter_read("processes"), counter_read("threads"), counter_read("fibers"),
	};
}

void counters_wait(struct counters wanted)
{
	WAIT_FOR(counter_read("processes") == wanted.processes);
	WAIT_FOR(counter_read("threads") == wanted.threads);
	WAIT_FOR(counter_read("fibers") == wanted.fibers);
}

void counters_wait_none(void)
{
	counters_wait((struct counters) { 0, 0, 0 });
}

static int run_alone(const struct test *test)
{
	uint64_t until = now_ms() + CASE_TIMEOUT_MS;
	pid_t pid = fork();
	int status;

	if (!pid) {
		test->run();
		_exit(0);
	}
	while (!waitpid(pid, &status, WNOHANG)) {
		if (now_ms() > until) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			printf("TIMEOUT %s\n", test->name);
			return 1;
		}
		pause_briefly();
	}
	if (WIFEXITED(status) && (!WEXITSTATUS(status) || WEXITSTATUS(status) == STATUS_SKIP)) {
		printf("%s %s\n", WEXITSTATUS(status) ? "skip" : "ok", test->name);
		return 0;
	}
	printf("FAILED %s: status 0x%x\n", test->name, status);
	return 1;
}

int main(int argc, char **argv)
{
	bool list = argc == 2 && !strcmp(argv[1], "--list");
	const struct test *test;
	int failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (test = test_first(); test; test = test->next) {
		if (list) {
			puts(test->name);
		} else if (argc == 1) {
			failed |= run_alone(test);
		} else if (!strcmp(argv[1], test->name)) {
			test->run();
			return 0;
		}
	}
	if (argc > 1 && !list) {
		fprintf(stderr, "%s: no case of that name: %s\n", argv[0], argv[1]);
		return 2;
	}
	return failed;
}
