/* SPDX-License-Identifier: MIT */
/*
 * Windows' functions over libfiber's. A created fiber's function and parameter are given to
 * libfiber as they are, so that tools show the function as its entry point.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "error.h"
#include "handle.h"
#include "thread.h"

#define STACK_UNIT	((SIZE_T)64 << 10)
#define STACK_DEFAULT	((SIZE_T)1 << 20)

/* How long a fiber that another thread runs is waited for. */
#define PATIENCE_MS	10000

_Static_assert(offsetof(struct windows_fiber, param) == 0, "as on Windows");
_Static_assert(offsetof(struct windows_fiber, stack_base) == 0x10, "");
_Static_assert(offsetof(struct windows_fiber, stack_limit) == 0x18, "");
_Static_assert(offsetof(struct windows_fiber, id) == HANDLE_ID, "switch_x86_64.S knows it");

static unsigned int fiber_flags(DWORD flags)
{
	return flags & FIBER_FLAG_FLOAT_SWITCH ? FIBER_FPU : 0;
}

static void measure_thread(struct windows_fiber *handle)
{
	pthread_attr_t attr;
	void *start;
	size_t size;

	if (pthread_getattr_np(pthread_self(), &attr))
		return;
	if (!pthread_attr_getstack(&attr, &start, &size)) {
		handle->stack_limit = start;
		handle->stack_base = handle->stack_limit + size;
		handle->stack_allocation = start;
	}
	pthread_attr_destroy(&attr);
}

LPVOID WINAPI ConvertThreadToFiberEx(LPVOID parameter, DWORD flags)
{
	struct windows_thread *self = thread_self();
	struct windows_fiber *handle;
	fiber_id_t id;
	int err;

	if (flags & ~(DWORD)FIBER_FLAG_FLOAT_SWITCH) {
		SetLastError(ERROR_INVALID_PARAMETER);
		return NULL;
	}
	err = thread_watch();
	if (!err)
		err = fiber_convert(fiber_flags(flags), &id);
	if (err) {
		error_set(err);
		return NULL;
	}
	handle = handle_new(id, parameter, true);
	if (!handle || handle_watch(handle)) {
		if (handle)
			handle_drop(handle);
		fiber_revert();
		SetLastError(ERROR_NOT_ENOUGH_MEMORY);
		return NULL;
	}
	handle->stays = true;
	measure_thread(handle);
	if (self->fls)
		fls_move(&handle->fls, self->fls);
	self->no_fiber = NULL;
	return handle;
}

LPVOID WINAPI ConvertThreadToFiber(LPVOID parameter)
{
	return ConvertThreadToFiberEx(parameter, 0);
}

BOOL WINAPI ConvertFiberToThread(VOID)
{
	struct windows_thread *self = thread_self();
	struct windows_fiber *handle = handle_current();
	struct fls *fls;
	int err;

	if (!handle) {
		SetLastError(ERROR_ALREADY_THREAD);
		return FALSE;
	}
	if (handle->fls.next && !self->fls) {
		self->fls = calloc(1, sizeof(*self->fls));
		if (!self->fls) {
			SetLastError(ERROR_NOT_ENOUGH_MEMORY);
			return FALSE;
		}
	}
	fls = self->fls;
	handle_unwatch(handle);
	err = fiber_revert();
	if (err) {
		handle_watch(handle);
		error_set(err);
		return FALSE;
	}
	if (fls)
		fls_move(fls, &handle->fls);
	handle_drop(handle);
	return TRUE;
}

/* The size of a stack, as Windows finds it. */
static SIZE_T stack_size(SIZE_T commit, SIZE_T reserve)
{
	SIZE_T unit = STACK_UNIT;

	if (!reserve)
		reserve = STACK_DEFAULT;
	if (reserve < commit) {
		reserve = commit;
		unit = STACK_DEFAULT;
	}
	return reserve > SIZE_MAX - unit ? reserve : (reserve + unit - 1) / unit * unit;
}

LPVOID WINAPI CreateFiberEx(SIZE_T commit, SIZE_T reserve, DWORD flags,
			    LPFIBER_START_ROUTINE start, LPVOID parameter)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = stack_size(commit, reserve) };
	struct windows_fiber *handle;
	fiber_id_t id;
	int err;

	if (flags & ~(DWORD)FIBER_FLAG_FLOAT_SWITCH) {
		SetLastError(ERROR_INVALID_PARAMETER);
		return NULL;
	}
	attr.flags = fiber_flags(flags);
	err = fiber_create(&id, start, parameter, &attr);
	if (err) {
		error_set(err);
		return NULL;
	}
	handle = handle_new(id, parameter, false);
	if (!handle) {
		fiber_delete(id);
		SetLastError(ERROR_NOT_ENOUGH_MEMORY);
		return NULL;
	}
	handle_measure(handle);
	return handle;
}

LPVOID WINAPI CreateFiber(SIZE_T commit, LPFIBER_START_ROUTINE start, LPVOID parameter)
{
	return CreateFiberEx(commit, 0, 0, start, parameter);
}

/* Calls it again while another thread runs the fiber, which may be about to leave it, or to end. */
static int when_free(int (*call)(fiber_id_t), fiber_id_t id)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	int waited, err = EBUSY;

	for (waited = 0; err == EBUSY && waited < PATIENCE_MS; waited++) {
		nanosleep(&pause, NULL);
		err = call(id);
	}
	return err;
}

/* From switch_x86_64.S: the switch failed, or is one to the running fiber, which Windows allows. */
void switch_failed(struct windows_fiber *handle, int err);

void switch_failed(struct windows_fiber *handle, int err)
{
	fiber_id_t id;

	if (err == EINVAL && !fiber_self(&id) && id == handle->id)
		return;
	if (err == EBUSY)
		err = when_free(fiber_switch, handle->id);
	if (err)
		error_abort("SwitchToFiber", handle, err);
}

static void delete(struct windows_fiber *handle)
{
	int err;

	handle_hold(handle);
	/* If its thread lives it ends with it, whatever fiber the thread runs then. */
	handle->stays = false;
	err = fiber_delete(handle->id);
	if (err == EBUSY)
		err = when_free(fiber_delete, handle->id);
	/* ESRCH: its thread has ended. EPERM: a living thread's own fiber, which ends with the thread. */
	if (err && err != ESRCH && err != EPERM)
		error_abort("DeleteFiber", handle, err);
	fls_end(&handle->fls);
	if (err != EPERM)
		handle_drop(handle);
	handle_put(handle);
}

/*
 * Of the running fiber. Returns false if nothing is left to do, since the thread ends already, and
 * true for a thread's own fiber.
 */
static bool delete_self(struct windows_fiber *handle)
{
	fiber_id_t id = handle->id;
	int err;

	fls_end(&handle->fls);
	if (!handle->own) {
		handle_unwatch(handle);
		handle_drop(handle);
	}
	err = fiber_delete(id);
	if (err && err != EPERM)
		error_abort("DeleteFiber", handle, err);
	return err;
}

/* In the place of a thread's own fiber that deletes itself: the thread ends, and unwinds nothing. */
static void delete_thread(void *pointer)
{
	delete(pointer);
	delete_self(handle_current());
}

VOID WINAPI DeleteFiber(LPVOID fiber)
{
	struct windows_fiber *handle = fiber, *last;

	if (!handle)
		return;
	if (!handle_exists(handle))
		error_abort("DeleteFiber", handle, ESRCH);
	if (handle != handle_current()) {
		delete(handle);
		return;
	}
	if (!delete_self(handle))
		return;
	last = CreateFiberEx(0, 0, 0, delete_thread, handle);
	if (!last)
		error_abort("DeleteFiber", handle, ENOMEM);
	SwitchToFiber(last);
}

PVOID GetCurrentFiber(VOID)
{
	struct windows_fiber *handle = handle_current();

	return handle ? handle : thread_self()->no_fiber;
}

BOOL WINAPI IsThreadAFiber(VOID)
{
	fiber_id_t id;

	return !fiber_self(&id);
}
