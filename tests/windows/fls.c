/* SPDX-License-Identifier: MIT */
/* Fiber-local storage. Sources: see fiber.c. */
#include "harness.h"

#ifndef _WIN32
#include <pthread.h>
#endif
#include <stdlib.h>
#include <unistd.h>

/* Larger than Windows has, which is 4,080 since Windows 10 1903. */
#define MANY 5000

#define VALUE(n) ((PVOID)(uintptr_t)(n))

static LPVOID home, fibers[64];
static DWORD key;
static volatile int called;
static PVOID last;
static volatile int inside, done;

static VOID CALLBACK count(PVOID value)
{
	CHECK(value);
	__atomic_store_n(&last, value, __ATOMIC_RELAXED);
	__atomic_add_fetch(&called, 1, __ATOMIC_RELAXED);
}

/* MS, FlsAlloc; Wine: test_FiberLocalStorage counts them, and 0 is never given out. */
TEST(how_many_indices)
{
	static DWORD keys[MANY];
	int i, all;

	for (all = 0; all < MANY; all++) {
		SetLastError(LAST_ERROR_MARK);
		keys[all] = FlsAlloc(NULL);
		if (keys[all] == FLS_OUT_OF_INDEXES)
			break;
		CHECK(keys[all] != 0);
		CHECK(keys[all] < 4080);
	}
	CHECK(FLS_OUT_OF_INDEXES == (DWORD)0xFFFFFFFF);
	CHECK(GetLastError() != LAST_ERROR_MARK);
	CHECK(all >= 1024);
	CHECK(all <= 4080);
	/* Each has a value of its own. */
	for (i = 0; i < all; i++)
		CHECK(FlsSetValue(keys[i], VALUE(i + 1)));
	for (i = 0; i < all; i++)
		CHECK(FlsGetValue(keys[i]) == VALUE(i + 1));
	for (i = 0; i < all; i++)
		CHECK(FlsFree(keys[i]) == TRUE);
	for (i = 0; i < all; i++)
		CHECK(FlsAlloc(NULL) != FLS_OUT_OF_INDEXES);
}

/* Wine: test_FiberLocalStorage, "Test index 0". */
TEST(index_0)
{
	CHECK_ERROR(FlsGetValue(0), NULL, ERROR_INVALID_PARAMETER);
	CHECK_ERROR(FlsSetValue(0, VALUE(1)), FALSE, ERROR_INVALID_PARAMETER);
	CHECK_ERROR(FlsGetValue(0), NULL, ERROR_INVALID_PARAMETER);
	CHECK_ERROR(FlsFree(0), FALSE, ERROR_INVALID_PARAMETER);
}

/* Wine: test_FiberLocalStorage, "Test an unallocated index". */
TEST(unallocated)
{
	CHECK_ERROR(FlsFree(127), FALSE, ERROR_INVALID_PARAMETER);
	CHECK(FlsGetValue(127) == NULL);
	CHECK(FlsSetValue(127, VALUE(0x217)));
	CHECK_ERROR(FlsGetValue(127), VALUE(0x217), ERROR_SUCCESS);
	CHECK_ERROR(FlsFree(127), FALSE, ERROR_INVALID_PARAMETER);
}

/* Wine: test_FiberLocalStorage, "out of bounds". */
TEST(out_of_range)
{
	static const DWORD bad[] = { 4080, 4081, 4096, 65536, 0x7fffffff, 0x80000000, 0xfffffffe,
				     0xffffffff };
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK_ERROR(FlsFree(bad[i]), FALSE, ERROR_INVALID_PARAMETER);
		CHECK_ERROR(FlsSetValue(bad[i], VALUE(1)), FALSE, ERROR_INVALID_PARAMETER);
		CHECK_ERROR(FlsGetValue(bad[i]), NULL, ERROR_INVALID_PARAMETER);
	}
}

/* MS, FlsGetValue: sets the last error to ERROR_SUCCESS. Wine: as above. FlsSetValue leaves it. */
TEST(the_last_error)
{
	key = FlsAlloc(NULL);
	CHECK_ERROR(FlsGetValue(key), NULL, ERROR_SUCCESS);
	CHECK_ERROR(FlsSetValue(key, VALUE(1)), TRUE, LAST_ERROR_MARK);
	CHECK_ERROR(FlsGetValue(key), VALUE(1), ERROR_SUCCESS);
	CHECK_ERROR(FlsFree(key), TRUE, LAST_ERROR_MARK);
}

#ifndef _WIN32
/* MS, FlsGetValue2: "does not call SetLastError". Wine 8 has none. */
TEST(get_value_2)
{
	key = FlsAlloc(NULL);
	CHECK_ERROR(FlsGetValue2(key), NULL, LAST_ERROR_MARK);
	CHECK(FlsSetValue(key, VALUE(1)));
	CHECK_ERROR(FlsGetValue2(key), VALUE(1), LAST_ERROR_MARK);
	CHECK_ERROR(FlsGetValue2(0), NULL, LAST_ERROR_MARK);
	CHECK_ERROR(FlsGetValue2(4080), NULL, LAST_ERROR_MARK);
}
#endif

/* Wine: test_FiberLocalStorage, "Undefined behavior", then "create the same FLS index again". */
TEST(the_same_index_again)
{
	DWORD again;

	key = FlsAlloc(NULL);
	CHECK(FlsSetValue(key, VALUE(1)));
	CHECK(FlsFree(key));
	CHECK_ERROR(FlsGetValue(key), NULL, ERROR_SUCCESS);
	again = FlsAlloc(NULL);
	CHECK(again == key);
	CHECK_ERROR(FlsGetValue(again), NULL, ERROR_SUCCESS);
}

#ifndef _WIN32
/* What was set while the index was free is not seen by who gets it. Windows leaves it undefined. */
TEST(a_fresh_index_after_a_stray_value)
{
	key = FlsAlloc(count);
	CHECK(FlsFree(key));
	CHECK(FlsSetValue(key, VALUE(1)));
	CHECK(FlsGetValue(key) == VALUE(1));
	CHECK(FlsAlloc(count) == key);
	CHECK(FlsGetValue(key) == NULL);
	CHECK(FlsFree(key));
	CHECK(called == 0);
}
#endif

static VOID CALLBACK keeps_a_value(LPVOID parameter)
{
	/* Wine: FiberMainProc, too. Nothing was set yet in this fiber. */
	CHECK_ERROR(FlsGetValue(key), NULL, ERROR_INVALID_PARAMETER);
	CHECK(FlsSetValue(key, parameter));
	for (;;) {
		CHECK(FlsGetValue(key) == parameter);
		SwitchToFiber(home);
	}
}

/* MS, Fibers: each fiber its own. Wine: FiberMainProc reads NULL first. */
TEST(each_fiber_has_its_own)
{
	int i, round;

	key = FlsAlloc(NULL);
	home = ConvertThreadToFiber(NULL);
	CHECK(FlsSetValue(key, VALUE(1000)));
	for (i = 0; i < 64; i++)
		fibers[i] = CreateFiberEx(0, 1 << 16, 0, keeps_a_value, VALUE(i + 1));
	for (round = 0; round < 3; round++)
		for (i = 0; i < 64; i++)
			SwitchToFiber(fibers[i]);
	CHECK(FlsGetValue(key) == VALUE(1000));
}

/* FlsAlloc's page: "each fiber of the process"; a thread keeps its values over its conversion. */
TEST(values_of_a_thread_stay_over_conversion)
{
	key = FlsAlloc(count);
	CHECK(FlsSetValue(key, VALUE(1)));
	CHECK(ConvertThreadToFiber(NULL));
	CHECK(FlsGetValue(key) == VALUE(1));
	CHECK(FlsSetValue(key, VALUE(2)));
	CHECK(called == 0);
	CHECK(ConvertFiberToThread());
	CHECK(FlsGetValue(key) == VALUE(2));
	CHECK(called == 0);
	CHECK(ConvertThreadToFiber(NULL));
	CHECK(FlsGetValue(key) == VALUE(2));
}

static VOID CALLBACK sets_null(LPVOID unused)
{
	(void)unused;
	CHECK_ERROR(FlsGetValue(key), NULL, ERROR_INVALID_PARAMETER);
	CHECK(FlsSetValue(key, NULL));
	CHECK_ERROR(FlsGetValue(key), NULL, ERROR_SUCCESS);
	SwitchToFiber(home);
}

TEST(a_fiber_without_values)
{
	key = FlsAlloc(count);
	home = ConvertThreadToFiber(NULL);
	CHECK_ERROR(FlsGetValue(key), NULL, ERROR_SUCCESS);
	fibers[0] = CreateFiber(0, sets_null, NULL);
	SwitchToFiber(fibers[0]);
	DeleteFiber(fibers[0]);
	CHECK(called == 0);
}

/* MS, FlsFree and FlsCallback. Wine: test_FiberLocalStorageCallback, ...WithFibers. */
TEST(free_calls_back_for_each_fiber)
{
	int i;

	key = FlsAlloc(count);
	home = ConvertThreadToFiber(NULL);
	for (i = 0; i < 64; i++) {
		fibers[i] = CreateFiberEx(0, 1 << 16, 0, keeps_a_value,
					  i & 1 ? NULL : VALUE(i + 1));
		SwitchToFiber(fibers[i]);
	}
	CHECK(FlsSetValue(key, VALUE(1000)));
	CHECK(called == 0);
	CHECK(FlsFree(key));
	CHECK(called == 33);
	for (i = 0; i < 64; i++)
		DeleteFiber(fibers[i]);
	CHECK(called == 33);
}

TEST(free_never_calls_back_for_null)
{
	key = FlsAlloc(count);
	CHECK(FlsSetValue(key, VALUE(1)));
	CHECK(FlsSetValue(key, NULL));
	CHECK(FlsFree(key));
	CHECK(called == 0);
}

static DWORD keys[100];

static VOID CALLBACK has_many_values(LPVOID unused)
{
	int i;

	(void)unused;
	for (i = 0; i < 100; i++)
		CHECK(FlsSetValue(keys[i], i % 4 ? VALUE(i) : NULL));
	SwitchToFiber(home);
}

/* MS, FlsCallback: "is called on fiber deletion". */
TEST(deletion_calls_back_once_for_each_value)
{
	int i;

	for (i = 0; i < 100; i++)
		keys[i] = FlsAlloc(i % 2 ? count : NULL);
	home = ConvertThreadToFiber(NULL);
	fibers[0] = CreateFiber(0, has_many_values, NULL);
	CHECK(FlsSetValue(keys[1], VALUE(1)));
	CHECK(called == 0);
	SwitchToFiber(fibers[0]);
	CHECK(called == 0);
	DeleteFiber(fibers[0]);
	CHECK(called == 50);
	for (i = 0; i < 100; i++)
		CHECK(FlsFree(keys[i]));
	CHECK(called == 51);
}

static void thread_with_a_value(void *unused)
{
	(void)unused;
	CHECK(FlsSetValue(key, VALUE(1)));
}

/* MS, FlsCallback: "... when its thread exits". */
TEST(the_end_of_a_thread_calls_back)
{
	key = FlsAlloc(count);
	thread_join(thread_start(thread_with_a_value, NULL));
	CHECK(called == 1);
	CHECK(FlsFree(key));
	CHECK(called == 1);
}

static VOID CALLBACK set_and_return(LPVOID parameter)
{
	CHECK(FlsSetValue(key, parameter));
}

static VOID CALLBACK set_and_delete(LPVOID parameter)
{
	CHECK(FlsSetValue(key, parameter));
	DeleteFiber(GetCurrentFiber());
}

static void fiber_with_a_value(void *entry)
{
	CHECK(ConvertThreadToFiber(NULL));
	SwitchToFiber(CreateFiber(0, (LPFIBER_START_ROUTINE)entry, VALUE(2)));
}

static void own_fiber_with_a_value(void *unused)
{
	(void)unused;
	CHECK(ConvertThreadToFiber(NULL));
	CHECK(FlsSetValue(key, VALUE(2)));
}

static LPVOID its_root;

static void leaves_two_values(void *unused)
{
	(void)unused;
	its_root = ConvertThreadToFiber(NULL);
	CHECK(FlsSetValue(key, VALUE(1)));
	SwitchToFiber(CreateFiber(0, set_and_return, VALUE(2)));
}

/* MS, FlsCallback: for the running one. The thread's own is another one, until DeleteFiber(). */
TEST(a_thread_ends_on_another_fiber_than_its_own)
{
	LPVOID roots[3];
	int i;

	key = FlsAlloc(count);
	for (i = 0; i < 3; i++) {
		thread_join(thread_start(leaves_two_values, NULL));
		CHECK(called == i + 1);
		CHECK(last == VALUE(2));
		roots[i] = its_root;
	}
	for (i = 0; i < 3; i++) {
		DeleteFiber(roots[i]);
		CHECK(called == 4 + i);
		CHECK(last == VALUE(1));
	}
}

static int parameter_value = 4711;

static VOID CALLBACK reads_its_parameter(PVOID value)
{
	CHECK(value == VALUE(2));
	CHECK(IsThreadAFiber());
	CHECK(GetFiberData() == &parameter_value);
	called++;
}

static void converted_with_a_value(void *unused)
{
	(void)unused;
	CHECK(ConvertThreadToFiber(&parameter_value));
	CHECK(FlsSetValue(key, VALUE(2)));
}

#ifndef _WIN32
static void deleted_with_a_value(void *unused)
{
	converted_with_a_value(unused);
	DeleteFiber(GetCurrentFiber());
}
#endif

/* Wine: so it is there. */
TEST(a_callback_at_the_end_of_a_thread_is_on_its_fiber)
{
	key = FlsAlloc(reads_its_parameter);
	thread_join(thread_start(converted_with_a_value, NULL));
	CHECK(called == 1);
#ifndef _WIN32
	thread_join(thread_start(deleted_with_a_value, NULL));
	CHECK(called == 2);
#endif
}

TEST(the_end_of_a_thread_calls_back_for_the_running_fiber)
{
	key = FlsAlloc(count);
	thread_join(thread_start(fiber_with_a_value, (void *)set_and_return));
	CHECK(called == 1);
	CHECK(last == VALUE(2));
	thread_join(thread_start(fiber_with_a_value, (void *)set_and_delete));
	CHECK(called == 2);
	thread_join(thread_start(own_fiber_with_a_value, NULL));
	CHECK(called == 3);
	CHECK(FlsFree(key));
	CHECK(called == 3);
}

static DWORD second;

static VOID CALLBACK uses_fls(PVOID value)
{
	DWORD third = FlsAlloc(count);

	CHECK(value == VALUE(1));
	CHECK(third != FLS_OUT_OF_INDEXES);
	CHECK(FlsSetValue(third, VALUE(3)));
	CHECK(FlsGetValue(third) == VALUE(3));
	CHECK(FlsSetValue(second, VALUE(4)));
	CHECK(FlsFree(third));
	inside++;
}

static VOID CALLBACK has_one_value(LPVOID unused)
{
	(void)unused;
	CHECK(FlsSetValue(key, VALUE(1)));
	SwitchToFiber(home);
}

TEST(a_callback_uses_fls)
{
	key = FlsAlloc(uses_fls);
	second = FlsAlloc(count);
	CHECK(FlsSetValue(key, VALUE(1)));
	CHECK(FlsFree(key));
	CHECK(inside == 1);
	CHECK(called == 1);
	CHECK(FlsGetValue(second) == VALUE(4));

	key = FlsAlloc(uses_fls);
	home = ConvertThreadToFiber(NULL);
	SwitchToFiber(fibers[0] = CreateFiber(0, has_one_value, NULL));
	DeleteFiber(fibers[0]);
	CHECK(inside == 2);
}

#ifndef _WIN32
static VOID CALLBACK converts(PVOID value)
{
	called++;
	CHECK(value == VALUE(1));
	CHECK(ConvertThreadToFiber(NULL));
	CHECK(FlsSetValue(second, VALUE(2)));
}

/* The values that are being called back move to the fiber. */
TEST(a_callback_at_the_end_of_a_thread_converts_it)
{
	key = FlsAlloc(converts);
	second = FlsAlloc(count);
	thread_join(thread_start(thread_with_a_value, NULL));
	CHECK(called == 2);
	CHECK(last == VALUE(2));
}

static pthread_key_t late;

/* C++ registers destructors of thread-local objects by it. */
int __cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *dso);
extern void *__dso_handle;

static void uses_fls_at_the_end(void *unused)
{
	(void)unused;
	GetCurrentFiber();
	CHECK(FlsSetValue(second, VALUE(9)));
	CHECK(FlsGetValue(second) == VALUE(9));
}

static void with_destructors(void *run)
{
	CHECK(__cxa_thread_atexit_impl(uses_fls_at_the_end, NULL, &__dso_handle) == 0);
	CHECK(pthread_setspecific(late, &late) == 0);
	((void (*)(void *))run)(NULL);
}

static void returns_with_a_value(void *unused)
{
	(void)unused;
	fiber_with_a_value((void *)set_and_return);
}

static void deletes_itself_with_a_value(void *unused)
{
	(void)unused;
	fiber_with_a_value((void *)set_and_delete);
}

/* Windows' TLS callbacks may use FLS as well; its own callbacks have run by then. */
TEST(destructors_of_a_thread_use_fls)
{
	key = FlsAlloc(count);
	second = FlsAlloc(count);
	CHECK(pthread_key_create(&late, uses_fls_at_the_end) == 0);
	thread_join(thread_start(with_destructors, (void *)thread_with_a_value));
	CHECK(called == 3);
	thread_join(thread_start(with_destructors, (void *)own_fiber_with_a_value));
	CHECK(called == 6);
	thread_join(thread_start(with_destructors, (void *)returns_with_a_value));
	CHECK(called == 9);
	thread_join(thread_start(with_destructors, (void *)deletes_itself_with_a_value));
	CHECK(called == 12);
}

static VOID CALLBACK deletes_its_fiber(PVOID unused)
{
	(void)unused;
	called++;
	if (GetCurrentFiber())
		DeleteFiber(GetCurrentFiber());
}

static VOID CALLBACK set_two_and_return(LPVOID parameter)
{
	CHECK(FlsSetValue(key, parameter));
	CHECK(FlsSetValue(second, parameter));
}

static VOID CALLBACK set_two_and_delete(LPVOID parameter)
{
	set_two_and_return(parameter);
	DeleteFiber(GetCurrentFiber());
}

static VOID CALLBACK set_two_and_exit(LPVOID parameter)
{
	set_two_and_return(parameter);
	pthread_exit(NULL);
}

/* Whatever ends it: each value is called back once, and nothing is used after it was freed. */
TEST(a_callback_deletes_the_fiber_that_ends)
{
	key = FlsAlloc(deletes_its_fiber);
	second = FlsAlloc(count);
	thread_join(thread_start(fiber_with_a_value, (void *)set_two_and_return));
	CHECK(called == 2);
	thread_join(thread_start(fiber_with_a_value, (void *)set_two_and_delete));
	CHECK(called == 4);
	thread_join(thread_start(fiber_with_a_value, (void *)set_two_and_exit));
	CHECK(called == 6);
}

static LPVOID ending;
static volatile int go;

static VOID CALLBACK ends_when_told(LPVOID unused)
{
	(void)unused;
	SET(inside);
	wait_for(&go);
}

static void leaves_its_own_fiber(void *unused)
{
	(void)unused;
	ending = ConvertThreadToFiber(NULL);
	CHECK(FlsSetValue(key, VALUE(1)));
	SwitchToFiber(CreateFiber(0, ends_when_told, NULL));
}

/* A living thread's, which runs another one: the values are called back, the rest ends with the thread. */
TEST(deleting_another_threads_own_fiber)
{
	struct thread *thread;

	key = FlsAlloc(count);
	thread = thread_start(leaves_its_own_fiber, NULL);
	wait_for(&inside);
	DeleteFiber(ending);
	CHECK(called == 1);
	DeleteFiber(ending);
	SET(go);
	thread_join(thread);
	CHECK(called == 1);
}

static VOID CALLBACK ends_its_thread(PVOID unused)
{
	(void)unused;
	called++;
	pthread_exit(NULL);
}

static void free_the_key(void *unused)
{
	(void)unused;
	FlsFree(key);
	CHECK(0);
}

static void scribble(void *unused)
{
	volatile char frame[200000];
	size_t i;

	(void)unused;
	for (i = 0; i < sizeof(frame); i++)
		frame[i] = 1;
}

/* That FlsFree() never ends: its index stays taken, and all others work. */
TEST(a_callback_of_free_ends_the_thread)
{
	key = FlsAlloc(ends_its_thread);
	CHECK(FlsSetValue(key, VALUE(1)));
	thread_join(thread_start(free_the_key, NULL));
	CHECK(called == 1);
	/* On the same stack, most likely. */
	thread_join(thread_start(scribble, NULL));
	CHECK_ERROR(FlsFree(key), FALSE, ERROR_INVALID_PARAMETER);
	second = FlsAlloc(count);
	CHECK(second != key);
	key = second;
	thread_join(thread_start(thread_with_a_value, NULL));
	CHECK(called == 2);
	CHECK(FlsFree(second));
}
#endif

static VOID CALLBACK stays(PVOID unused)
{
	(void)unused;
	SET(inside);
	wait_for(&done);
}

/* The harness's main() returns while the other thread is in there. */
TEST(a_process_exits_while_another_thread_is_in_a_callback)
{
	key = FlsAlloc(stays);
	thread_start(thread_with_a_value, NULL);
	wait_for(&inside);
}

static VOID CALLBACK end_well(PVOID value)
{
	/* Status 1 until all was seen. */
	if (value == VALUE(7))
		_exit(0);
}

/* Wine: fls_exit_deadlock_child() expects it while the process shuts down. */
TEST(the_end_of_the_process_calls_back)
{
	key = FlsAlloc(end_well);
	CHECK(FlsSetValue(key, VALUE(7)));
	exit(1);
}

TEST(the_end_of_the_process_calls_back_for_the_running_fiber)
{
	key = FlsAlloc(end_well);
	CHECK(ConvertThreadToFiber(NULL));
	CHECK(FlsSetValue(key, VALUE(7)));
	exit(1);
}

static void churn(void *pointer)
{
	uintptr_t number = (uintptr_t)pointer;
	int i;

	for (i = 0; i < 2000; i++) {
		DWORD mine = FlsAlloc(count);

		CHECK(mine != FLS_OUT_OF_INDEXES);
		CHECK(FlsGetValue(mine) == NULL);
		CHECK(FlsSetValue(mine, VALUE(number)));
		CHECK(FlsGetValue(mine) == VALUE(number));
		CHECK(FlsFree(mine));
	}
}

TEST(indices_come_and_go_on_many_threads)
{
	struct thread *threads[4];
	uintptr_t i;

	for (i = 0; i < 4; i++)
		threads[i] = thread_start(churn, (void *)(i + 1));
	for (i = 0; i < 4; i++)
		thread_join(threads[i]);
}
