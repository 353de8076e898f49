/* SPDX-License-Identifier: MIT */
/*
 * Conversion, creation, switches and ends. Each test names what it holds Windows to:
 * a page of Microsoft's documentation ("MS", by its function), a function of Wine's
 * dlls/kernel32/tests/fiber.c ("Wine"), or Windows' structures.
 */
#include "harness.h"

#ifndef _WIN32
#include <fiber.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static LPVOID home, fibers[64];
static int visits;
static volatile int done;

static VOID CALLBACK come_back(LPVOID parameter)
{
	for (;;) {
		visits++;
		CHECK(parameter == &visits);
		CHECK(GetFiberData() == &visits);
		SwitchToFiber(home);
	}
}

/* Wine: test_FiberHandling, which begins so. */
TEST(created_and_deleted_on_a_thread_that_is_no_fiber)
{
	LPVOID fiber = CreateFiber(0, come_back, &visits);

	CHECK(fiber);
	CHECK(!IsThreadAFiber());
	DeleteFiber(fiber);
	CHECK(!IsThreadAFiber());
	CHECK(visits == 0);
	fiber = CreateFiberEx(0, 0, 0, come_back, &visits);
	CHECK(fiber);
	home = ConvertThreadToFiber(NULL);
	CHECK(home);
	SwitchToFiber(fiber);
	CHECK(visits == 1);
}

/* MS, ConvertThreadToFiber: fails with ERROR_ALREADY_FIBER. */
TEST(a_second_conversion)
{
	home = ConvertThreadToFiber(&visits);
	CHECK(home);
	CHECK_ERROR(ConvertThreadToFiber(NULL), NULL, ERROR_ALREADY_FIBER);
	CHECK_ERROR(ConvertThreadToFiberEx(NULL, FIBER_FLAG_FLOAT_SWITCH), NULL,
		    ERROR_ALREADY_FIBER);
	CHECK(GetCurrentFiber() == home);
	CHECK(GetFiberData() == &visits);
}

/* MS, ConvertFiberToThread; Wine: test_FiberHandling converts twice. */
TEST(there_and_back)
{
	int i;

	for (i = 0; i < 100; i++) {
		CHECK(!IsThreadAFiber());
		home = i & 1 ? ConvertThreadToFiber(&visits) :
			       ConvertThreadToFiberEx(&visits, FIBER_FLAG_FLOAT_SWITCH);
		CHECK(home);
		CHECK(IsThreadAFiber());
		CHECK(ConvertFiberToThread() == TRUE);
	}
	CHECK(!IsThreadAFiber());
}

/* MS, system error codes: ERROR_ALREADY_THREAD, "already a thread". */
TEST(back_from_no_fiber)
{
	CHECK_ERROR(ConvertFiberToThread(), FALSE, ERROR_ALREADY_THREAD);
	CHECK(ConvertThreadToFiber(NULL));
	CHECK(ConvertFiberToThread());
	CHECK_ERROR(ConvertFiberToThread(), FALSE, ERROR_ALREADY_THREAD);
}

/* MS, CreateFiberEx and ConvertThreadToFiberEx: dwFlags is 0 or FIBER_FLAG_FLOAT_SWITCH. */
TEST(unknown_flags)
{
	DWORD flags;

	CHECK(FIBER_FLAG_FLOAT_SWITCH == 1);
	for (flags = 2; flags; flags <<= 1) {
		CHECK_ERROR(CreateFiberEx(0, 0, flags, come_back, NULL), NULL,
			    ERROR_INVALID_PARAMETER);
		CHECK_ERROR(ConvertThreadToFiberEx(NULL, flags | 1), NULL,
			    ERROR_INVALID_PARAMETER);
	}
	CHECK(!IsThreadAFiber());
}

/* Wine: FiberMainProc compares it. MS, GetFiberData. */
TEST(the_parameter_arrives)
{
	home = ConvertThreadToFiber(&home);
	fibers[0] = CreateFiber(0, come_back, &visits);
	SwitchToFiber(fibers[0]);
	CHECK(visits == 1);
	CHECK(GetFiberData() == &home);
	CHECK(*(LPVOID *)fibers[0] == &visits);
	CHECK(*(LPVOID *)home == &home);
	SwitchToFiber(fibers[0]);
	CHECK(visits == 2);
	DeleteFiber(fibers[0]);
}

static VOID CALLBACK use_stack(LPVOID parameter)
{
	volatile char frame[100000];

	memset((char *)frame, 1, sizeof(frame));
	*(char *)parameter = frame[sizeof(frame) - 1];
	visits++;
	SwitchToFiber(home);
}

/* Wine: test_FiberHandling has CreateFiberEx(0, 0, 0, ...). MS, CreateFiberEx: how sizes count. */
TEST(stack_sizes)
{
	static const struct {
		SIZE_T commit, reserve;
	} sizes[] = {
		{ 0, 0 }, { 4096, 0 }, { 1 << 21, 0 }, { 0, 1 << 18 }, { 4096, 1 << 18 },
		{ 1 << 20, 1 << 18 }, { 1, 150000 }, { 150001, 150000 },
	};
	char used = 0;
	size_t i;

	home = ConvertThreadToFiber(NULL);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		LPVOID fiber = CreateFiberEx(sizes[i].commit, sizes[i].reserve, i & 1, use_stack,
					     &used);

		CHECK(fiber);
		SwitchToFiber(fiber);
		CHECK(visits == (int)i + 1);
		CHECK(used == 1);
		DeleteFiber(fiber);
	}
}

/* MS, CreateFiberEx: "If the function fails, the return value is NULL." */
TEST(a_stack_that_is_too_large)
{
	SetLastError(LAST_ERROR_MARK);
	CHECK(!CreateFiberEx(0, (SIZE_T)1 << 62, 0, come_back, NULL));
	CHECK(GetLastError() != LAST_ERROR_MARK);
	CHECK(GetLastError() != ERROR_SUCCESS);
}

static VOID CALLBACK look_around(LPVOID parameter)
{
	char *fiber = GetCurrentFiber();
	char here = 0;

	CHECK(parameter == &visits);
	CHECK(fiber == fibers[0]);
	CHECK(IsThreadAFiber());
	/* struct FIBER of Windows: the parameter, and at 0x10 and 0x18 the ends of the stack. */
	CHECK(*(LPVOID *)fiber == parameter);
	CHECK(&here < *(char **)(fiber + 0x10));
	CHECK(&here >= *(char **)(fiber + 0x18));
	CHECK(*(char **)(fiber + 0x10) - &here < 1 << 20);
	visits++;
	SwitchToFiber(home);
}

TEST(the_handle_is_laid_out_as_on_windows)
{
	char here = 0, *own;

	home = own = ConvertThreadToFiber(&fibers);
	CHECK(*(LPVOID *)own == &fibers);
	CHECK(&here < *(char **)(own + 0x10));
	CHECK(&here >= *(char **)(own + 0x18));
	fibers[0] = CreateFiber(0, look_around, &visits);
	SwitchToFiber(fibers[0]);
	CHECK(visits == 1);
}

static void current_on_a_thread(void *unused)
{
	(void)unused;
	/* The thread block's FiberData shares its place with a version: 30 * 256. */
	CHECK(GetCurrentFiber() == (PVOID)0x1E00);
	CHECK(!IsThreadAFiber());
	CHECK(GetCurrentFiber() == (PVOID)0x1E00);
	CHECK(ConvertThreadToFiber(NULL) == GetCurrentFiber());
	CHECK(ConvertFiberToThread());
	CHECK(GetCurrentFiber() == NULL);
}

TEST(the_current_fiber_of_a_thread_that_is_none)
{
	current_on_a_thread(NULL);
	thread_join(thread_start(current_on_a_thread, NULL));
}

/* MS, IsThreadAFiber. Wine: the end of test_FiberHandling. */
static VOID CALLBACK is_a_fiber(LPVOID unused)
{
	(void)unused;
	CHECK(IsThreadAFiber());
	SwitchToFiber(home);
}

TEST(is_thread_a_fiber_follows)
{
	CHECK(!IsThreadAFiber());
	home = ConvertThreadToFiber(NULL);
	CHECK(IsThreadAFiber());
	SwitchToFiber(fibers[0] = CreateFiber(0, is_a_fiber, NULL));
	CHECK(IsThreadAFiber());
	DeleteFiber(fibers[0]);
	CHECK(IsThreadAFiber());
	CHECK(ConvertFiberToThread());
	CHECK(!IsThreadAFiber());
}

TEST(a_switch_to_itself)
{
	home = ConvertThreadToFiber(NULL);
	SwitchToFiber(home);
	CHECK(GetCurrentFiber() == home);
}

static VOID CALLBACK pass_on(LPVOID parameter)
{
	LPVOID *next = parameter;

	visits++;
	SwitchToFiber(*next);
	CHECK(0);
}

/* MS, SwitchToFiber: from any fiber to any other. */
TEST(a_chain)
{
	int i, count = sizeof(fibers) / sizeof(fibers[0]);

	home = ConvertThreadToFiber(NULL);
	for (i = 0; i < count; i++)
		fibers[i] = CreateFiberEx(0, 1 << 16, 0, pass_on,
					  i + 1 < count ? &fibers[i + 1] : &home);
	SwitchToFiber(fibers[0]);
	CHECK(visits == count);
	for (i = 0; i < count; i++)
		DeleteFiber(fibers[i]);
	CHECK(ConvertFiberToThread());
}

static VOID CALLBACK delete_itself(LPVOID unused)
{
	(void)unused;
	SET(done);
	DeleteFiber(GetCurrentFiber());
	CHECK(0);
}

static VOID CALLBACK just_return(LPVOID unused)
{
	(void)unused;
	SET(done);
}

static void run_a_fiber(void *entry)
{
	LPVOID fiber;

	CHECK(ConvertThreadToFiber(NULL));
	fiber = CreateFiber(0, (LPFIBER_START_ROUTINE)entry, NULL);
	CHECK(fiber);
	SwitchToFiber(fiber);
	CHECK(0);
}

/* MS, DeleteFiber: "If the currently running fiber calls DeleteFiber, its thread calls ExitThread". */
TEST(deleting_the_running_fiber_ends_the_thread)
{
	thread_join(thread_start(run_a_fiber, (void *)delete_itself));
	CHECK(done);
}

static void delete_root(void *unused)
{
	(void)unused;
	CHECK(ConvertThreadToFiber(NULL));
	SET(done);
	DeleteFiber(GetCurrentFiber());
	CHECK(0);
}

TEST(deleting_the_thread_that_is_a_fiber_ends_it)
{
	thread_join(thread_start(delete_root, NULL));
	CHECK(done);
}

/* MS, FiberProc and CreateFiber: if it returns, the thread running the fiber exits. */
TEST(a_returning_entry_point_ends_the_thread)
{
	thread_join(thread_start(run_a_fiber, (void *)just_return));
	CHECK(done);
}

static void create_for_others(void *unused)
{
	(void)unused;
	CHECK(ConvertThreadToFiber(NULL));
	fibers[0] = CreateFiber(0, come_back, &visits);
	home = GetCurrentFiber();
	SwitchToFiber(fibers[0]);
	CHECK(visits == 1);
	CHECK(ConvertFiberToThread());
}

/* MS, Fibers: a fiber can be scheduled by any thread; it is not the creator's. */
TEST(a_fiber_outlives_its_thread_and_resumes_on_another)
{
	thread_join(thread_start(create_for_others, NULL));
	home = ConvertThreadToFiber(NULL);
	SwitchToFiber(fibers[0]);
	CHECK(visits == 2);
	DeleteFiber(fibers[0]);
}

static DWORD seen;

static VOID CALLBACK last_error(LPVOID unused)
{
	(void)unused;
	for (;;) {
		seen = GetLastError();
		SetLastError(22);
		SwitchToFiber(home);
	}
}

static void other_thread(void *unused)
{
	(void)unused;
	CHECK(ConvertThreadToFiber(NULL));
	home = GetCurrentFiber();
	SetLastError(33);
	SwitchToFiber(fibers[0]);
	CHECK(seen == 33);
	CHECK(GetLastError() == 22);
	CHECK(ConvertFiberToThread());
}

/* MS, GetLastError: "The last-error code is maintained on a per-thread basis." */
TEST(the_last_error_is_the_threads)
{
	home = ConvertThreadToFiber(NULL);
	fibers[0] = CreateFiber(0, last_error, NULL);
	SetLastError(11);
	SwitchToFiber(fibers[0]);
	CHECK(seen == 11);
	CHECK(GetLastError() == 22);
	SetLastError(44);
	thread_join(thread_start(other_thread, NULL));
	CHECK(GetLastError() == 44);
}

static LPVOID hand_over;

static VOID CALLBACK wanderer(LPVOID unused)
{
	(void)unused;
	for (;;) {
		visits++;
		SwitchToFiber(hand_over);
	}
}

static void lead(void *unused)
{
	(void)unused;
	hand_over = ConvertThreadToFiber(NULL);
	SwitchToFiber(fibers[0]);
	CHECK(ConvertFiberToThread());
}

TEST(a_fiber_visits_many_threads)
{
	int i;

	fibers[0] = CreateFiber(0, wanderer, NULL);
	for (i = 0; i < 100; i++)
		thread_join(thread_start(lead, NULL));
	CHECK(visits == 100);
	DeleteFiber(fibers[0]);
}

#ifndef _WIN32
static VOID CALLBACK delete_home(LPVOID unused)
{
	(void)unused;
	DeleteFiber(home);
	SET(done);
}

static void leave_home(void *unused)
{
	(void)unused;
	home = ConvertThreadToFiber(NULL);
	SwitchToFiber(CreateFiber(0, delete_home, NULL));
	CHECK(0);
}

/* Nobody comes back to the thread's own fiber. Windows frees a stack there that is not the fiber's. */
TEST(a_fiber_deletes_its_threads_own)
{
	int i;

	for (i = 0; i < 20; i++) {
		done = 0;
		thread_join(thread_start(leave_home, NULL));
		CHECK(done);
	}
}

static VOID CALLBACK return_later(LPVOID unused)
{
	(void)unused;
	SET(done);
	sleep_ms(20);
}

static VOID CALLBACK delete_itself_later(LPVOID unused)
{
	return_later(unused);
	DeleteFiber(GetCurrentFiber());
}

static void run_the_first(void *unused)
{
	(void)unused;
	CHECK(ConvertThreadToFiber(NULL));
	SwitchToFiber(fibers[0]);
	CHECK(0);
}

/* DeleteFiber() waits for the thread, which ends meanwhile and must leave the handle to it. */
TEST(deleted_while_it_ends_on_another_thread)
{
	int i;

	for (i = 0; i < 10; i++) {
		struct thread *thread;

		done = 0;
		fibers[0] = CreateFiber(0, i & 1 ? return_later : delete_itself_later, NULL);
		thread = thread_start(run_the_first, NULL);
		wait_for(&done);
		DeleteFiber(fibers[0]);
		thread_join(thread);
	}
}

static VOID CALLBACK convert_back(LPVOID unused)
{
	(void)unused;
	CHECK_ERROR(ConvertFiberToThread(), FALSE, ERROR_INVALID_PARAMETER);
	CHECK(GetCurrentFiber() == fibers[0]);
	visits++;
	SwitchToFiber(home);
}

/* On Windows it says TRUE, and the thread is lost. */
TEST(only_the_threads_own_fiber_converts_back)
{
	home = ConvertThreadToFiber(NULL);
	fibers[0] = CreateFiber(0, convert_back, NULL);
	SwitchToFiber(fibers[0]);
	CHECK(visits == 1);
	CHECK(ConvertFiberToThread());
}

static void native(void *pointer)
{
	CHECK(pointer == &visits);
	CHECK(IsThreadAFiber());
	CHECK(GetFiberData() == &visits);
	visits++;
	SwitchToFiber(home);
	CHECK(0);
}

/* Beside libfiber's own functions: its fibers have handles as well. */
TEST(native_fibers)
{
	fiber_id_t id;

	CHECK(fiber_convert(0, NULL) == 0);
	CHECK(IsThreadAFiber());
	home = GetCurrentFiber();
	CHECK(home);
	CHECK(GetCurrentFiber() == home);
	CHECK_ERROR(ConvertThreadToFiber(NULL), NULL, ERROR_ALREADY_FIBER);
	CHECK(fiber_create(&id, native, &visits, NULL) == 0);
	CHECK(fiber_switch(id) == 0);
	CHECK(visits == 1);
	CHECK(fiber_delete(id) == 0);
	CHECK(ConvertFiberToThread());
	CHECK(!IsThreadAFiber());
}

static unsigned long address_space(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	unsigned long pages = 0;

	CHECK(file);
	CHECK(fscanf(file, "%lu", &pages) == 1);
	fclose(file);
	return pages * 4096;
}

/* Windows frees the stack of the fiber that a thread ends on. */
TEST(threads_that_end_by_their_fibers_leave_no_stacks)
{
	unsigned long before = 0;
	int i;

	/* As the first call of the library, which must not change the order of what ends a thread. */
	DeleteFiber(CreateFiber(0, just_return, NULL));
	for (i = 0; i < 440; i++) {
		if (i == 40)
			before = address_space();
		thread_join(thread_start(run_a_fiber, i & 1 ? (void *)just_return :
							     (void *)delete_itself));
	}
	/* A quarter of what they had. */
	CHECK(address_space() - before < 100ul << 20);
}
#endif

/* As many threads that end by their fiber's return; what they leave is used again. */
TEST(many_threads_end_by_their_fibers)
{
	int i;

	for (i = 0; i < 200; i++) {
		done = 0;
		thread_join(thread_start(run_a_fiber, i & 1 ? (void *)just_return :
							     (void *)delete_itself));
		CHECK(done);
	}
}
