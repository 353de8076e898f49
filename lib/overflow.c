/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fiber_cb.h"
#include "engine.h"
#include "lock.h"
#include "overflow.h"
#include "thread.h"
#include "thread_exit.h"

/* Room for the largest signal frame, this handler's, and a previous one's. */
#define ALTERNATE_SIZE ((size_t)64 << 10)

/* Set once. */
static _Atomic bool reporting;
/* What was there before; fixed when `reporting` is set. */
static struct sigaction previous;

/* The alternate stack that this thread was given; NULL: none. */
static _Thread_local void *alternate;

/* Appends to a line. Async-signal-safe, as stdio is not. */
static void append(char **end, const char *text)
{
	while (*text)
		*(*end)++ = *text++;
}

static void append_number(char **end, uint64_t number)
{
	char digits[24], *start = digits + sizeof(digits) - 1;

	*start = '\0';
	do
		*--start = (char)('0' + number % 10);
	while (number /= 10);
	append(end, start);
}

static void report(fiber_id_t id, const struct stack *stack)
{
	char line[256], name[FIBER_NAME_MAX + 1] = "", *end = line;

	engine_current()->get_name(id, name);
	append(&end, "libfiber: fiber ");
	append_number(&end, id);
	if (*name) {
		append(&end, " (");
		append(&end, name);
		append(&end, ")");
	}
	append(&end, " overflowed its stack of ");
	append_number(&end, stack->size);
	append(&end, " bytes; create it with a larger stack_size\n");
	if (write(STDERR_FILENO, line, (size_t)(end - line)) < 0)
		return;
}

/* As if there were no handler of ours. */
static void go_on(int number, siginfo_t *info, void *context)
{
	if (previous.sa_flags & SA_SIGINFO) {
		previous.sa_sigaction(number, info, context);
	} else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
		if (info->si_code <= 0 && previous.sa_handler == SIG_IGN)
			return;
		/* The instruction is tried again and ends the process; if it was sent, that does. */
		signal(number, SIG_DFL);
		if (info->si_code <= 0)
			raise(number);
	} else {
		previous.sa_handler(number);
	}
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	int saved_errno = errno;
	struct stack stack;
	fiber_id_t id = thread_fiber();

	/* A fault, not a signal that somebody sent. */
	if (info->si_code > 0 && id) {
		stack = fiber_cb_stack(fiber_cb_at(id));
		if (!fiber_cb_at(id)->root_of && stack.start && !stack_is_own(&stack) &&
		    (uintptr_t)info->si_addr - (uintptr_t)stack_guard(&stack) < stack.guard)
			report(id, &stack);
	}
	errno = saved_errno;
	go_on(number, info, context);
}

void overflow_attach(void)
{
	stack_t stack = { .ss_size = ALTERNATE_SIZE };
	int saved_errno = errno;
	stack_t before;

	if (!atomic_load(&reporting) || alternate || sigaltstack(NULL, &before) ||
	    !(before.ss_flags & SS_DISABLE))
		return;
	stack.ss_sp = mmap(NULL, ALTERNATE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack.ss_sp != MAP_FAILED) {
		if (sigaltstack(&stack, NULL))
			munmap(stack.ss_sp, ALTERNATE_SIZE);
		else
			alternate = stack.ss_sp;
	}
	errno = saved_errno;
}

void overflow_detach(void)
{
	const stack_t none = { .ss_flags = SS_DISABLE };
	int saved_errno = errno;
	stack_t now;

	if (!alternate)
		return;
	/* The thread may have set another one since. */
	if (!sigaltstack(NULL, &now) && now.ss_sp == alternate)
		sigaltstack(&none, NULL);
	munmap(alternate, ALTERNATE_SIZE);
	alternate = NULL;
	errno = saved_errno;
}

static const struct thread_exit overflow_exit = { .end = overflow_detach };

int fiber_report_overflow(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct lock_state state;
	int err = 0;

	lock_take(&state);
	if (!atomic_load(&reporting)) {
		if (sigaction(SIGSEGV, NULL, &previous) || sigaction(SIGSEGV, &action, NULL))
			err = errno;
		else
			atomic_store(&reporting, true);
	}
	lock_drop(&state);
	if (!err)
		err = thread_exit_watch(THREAD_EXIT_OVERFLOW, &overflow_exit);
	if (!err)
		overflow_attach();
	return err;
}
