/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "error.h"
#include "handle.h"
#include "uapi/fiber.h"

/* By the slot of their ids. Untouched pages of it cost nothing. */
static struct windows_fiber *_Atomic handles[1 << FIBER_SLOT_BITS];

static struct windows_fiber *_Atomic *place(fiber_id_t id)
{
	return &handles[id & ((1 << FIBER_SLOT_BITS) - 1)];
}

/* A key of libfiber whose values are handles: tells the end of fibers. */
static fiber_key_t end_key;
static int end_error;

/* On the fiber that ends, on who deletes it, or where its thread ends. */
static void ended(void *pointer)
{
	struct windows_fiber *handle = pointer;

	fls_end(&handle->fls);
	if (handle->own && handle_claim(handle))
		handle_free(handle);
}

static void end_init(void)
{
	end_error = fiber_key_create(&end_key, ended);
}

int handle_watch(struct windows_fiber *handle)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, end_init);
	return end_error ? end_error : fiber_key_set(end_key, handle);
}

struct windows_fiber *handle_new(fiber_id_t id, void *param, bool own)
{
	struct windows_fiber *handle = calloc(1, sizeof(*handle));

	if (!handle)
		return NULL;
	handle->param = param;
	handle->exception_list = (void *)-1;
	handle->id = id;
	handle->own = own;
	atomic_store_explicit(place(id), handle, memory_order_release);
	return handle;
}

bool handle_exists(const struct windows_fiber *handle)
{
	return atomic_load_explicit(place(handle->id), memory_order_acquire) == handle;
}

bool handle_claim(struct windows_fiber *handle)
{
	return !atomic_exchange(&handle->dying, true);
}

void handle_free(struct windows_fiber *handle)
{
	struct windows_fiber *expected = handle;

	/* The slot may have another fiber by now. */
	atomic_compare_exchange_strong(place(handle->id), &expected, NULL);
	free(handle);
}

void handle_measure(struct windows_fiber *handle)
{
	struct fiber_stat stat = FIBER_STAT_INIT;

	if (fiber_get_stat(handle->id, &stat) || !stat.stack_size)
		return;
	handle->stack_limit = (char *)stat.stack_start;
	handle->stack_base = handle->stack_limit + stat.stack_size;
	handle->stack_allocation = handle->stack_limit;
}

/* A native fiber, which the caller runs. NULL: the thread is ending, and its fiber may be gone. */
static struct windows_fiber *adopt(fiber_id_t id)
{
	struct windows_fiber *handle;

	if (handle_watch(NULL) == EPERM)
		return NULL;
	handle = handle_new(id, fiber_data(), true);
	if (!handle || handle_watch(handle))
		error_abort("GetCurrentFiber", NULL, ENOMEM);
	handle_measure(handle);
	return handle;
}

static struct windows_fiber *handle_of(fiber_id_t id)
{
	struct windows_fiber *handle = atomic_load_explicit(place(id), memory_order_acquire);

	return handle && handle->id == id ? handle : NULL;
}

struct windows_fiber *handle_find(void)
{
	fiber_id_t id;

	return fiber_self(&id) ? NULL : handle_of(id);
}

struct windows_fiber *handle_current(void)
{
	struct windows_fiber *handle;
	fiber_id_t id;

	if (fiber_self(&id))
		return NULL;
	handle = handle_of(id);
	return handle ? handle : adopt(id);
}
