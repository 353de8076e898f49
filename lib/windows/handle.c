/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "error.h"
#include "handle.h"
#include "lock.h"
#include "uapi/fiber.h"

/*
 * By the slot of their ids, the newest first: under windows_lock, but that anybody may look at the
 * first one. Untouched pages cost nothing.
 */
static struct windows_fiber *_Atomic handles[1 << FIBER_SLOT_BITS];

static struct windows_fiber *_Atomic *place(fiber_id_t id)
{
	return &handles[id & ((1 << FIBER_SLOT_BITS) - 1)];
}

/* A key of libfiber whose values are handles: tells the end of fibers. */
static fiber_key_t end_key;
static int end_error;

/* Another fiber runs where this one ends. */
static bool left(const struct windows_fiber *handle)
{
	fiber_id_t id;

	return !fiber_self(&id) && id != handle->id;
}

/* On the fiber that ends, on who deletes it, or where its thread ends. */
static void ended(void *pointer)
{
	struct windows_fiber *handle = pointer;

	handle->watched = false;
	if (!handle->stays || !left(handle)) {
		fls_end(&handle->fls);
		if (handle->own)
			handle_drop(handle);
	}
	handle_put(handle);
}

static void end_init(void)
{
	end_error = fiber_key_create(&end_key, ended);
}

int handle_watch(struct windows_fiber *handle)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int err;

	if (handle->watched)
		return 0;
	pthread_once(&once, end_init);
	err = end_error ? end_error : fiber_key_set(end_key, handle);
	if (err)
		return err;
	handle->watched = true;
	atomic_fetch_add(&handle->references, 1);
	return 0;
}

void handle_unwatch(struct windows_fiber *handle)
{
	if (!handle->watched || fiber_key_set(end_key, NULL))
		return;
	handle->watched = false;
	handle_put(handle);
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
	atomic_init(&handle->references, 1);
	pthread_mutex_lock(&windows_lock);
	handle->older = atomic_load(place(id));
	atomic_store_explicit(place(id), handle, memory_order_release);
	pthread_mutex_unlock(&windows_lock);
	return handle;
}

bool handle_exists(const struct windows_fiber *handle)
{
	const struct windows_fiber *other;

	pthread_mutex_lock(&windows_lock);
	other = atomic_load(place(handle->id));
	while (other && other != handle)
		other = other->older;
	pthread_mutex_unlock(&windows_lock);
	return other;
}

void handle_hold(struct windows_fiber *handle)
{
	atomic_fetch_add(&handle->references, 1);
}

void handle_put(struct windows_fiber *handle)
{
	if (atomic_fetch_sub(&handle->references, 1) == 1)
		free(handle);
}

void handle_drop(struct windows_fiber *handle)
{
	struct windows_fiber *newer;
	bool dropped;

	pthread_mutex_lock(&windows_lock);
	dropped = handle->dropped;
	handle->dropped = true;
	if (!dropped) {
		newer = atomic_load(place(handle->id));
		if (newer == handle) {
			atomic_store(place(handle->id), handle->older);
		} else {
			while (newer->older != handle)
				newer = newer->older;
			newer->older = handle->older;
		}
	}
	pthread_mutex_unlock(&windows_lock);
	if (!dropped)
		handle_put(handle);
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
	int err;

	handle = handle_new(id, NULL, true);
	err = handle ? handle_watch(handle) : ENOMEM;
	if (err && handle)
		handle_drop(handle);
	if (err == EPERM)
		return NULL;
	if (err)
		error_abort("GetCurrentFiber", NULL, ENOMEM);
	handle->param = fiber_data();
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
	struct windows_fiber *handle;
	fiber_id_t id;

	if (fiber_self(&id))
		return NULL;
	pthread_mutex_lock(&windows_lock);
	handle = handle_of(id);
	if (handle)
		handle_hold(handle);
	pthread_mutex_unlock(&windows_lock);
	return handle;
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
