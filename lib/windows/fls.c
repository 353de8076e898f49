/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "error.h"
#include "fls.h"
#include "lock.h"
#include "thread.h"

_Static_assert(FLS_FIRST * ((1 << FLS_CHUNKS) - 1) == FLS_MAXIMUM_AVAILABLE, "the chunks are all");

static struct index {
	/* Changed under windows_lock, read by all. */
	_Atomic uint64_t generation;
	/* Under the lock; they stay until the index is free again. */
	PFLS_CALLBACK_FUNCTION callback;
	/* FlsFree() still calls back. */
	bool dying;
} indices[FLS_MAXIMUM_AVAILABLE];

/*
 * Where FlsFree() of each index is in the ring. Not on its stack: a callback may end the thread, or
 * fork, or its fiber may be deleted.
 */
static struct fls marks[FLS_MAXIMUM_AVAILABLE];

/* A ring of all that have a value, and of the marks of those that go through it. */
static struct fls all = { .previous = &all, .next = &all };

static void link_before(struct fls *fls, struct fls *next)
{
	fls->next = next;
	fls->previous = next->previous;
	fls->previous->next = fls;
	next->previous = fls;
}

static void unlink_it(struct fls *fls)
{
	fls->previous->next = fls->next;
	fls->next->previous = fls->previous;
	fls->previous = fls->next = NULL;
}

static bool in_range(DWORD index)
{
	return index && index < FLS_MAXIMUM_AVAILABLE;
}

static unsigned int chunk_of(DWORD index)
{
	return 27 - (unsigned int)__builtin_clz(index + FLS_FIRST);
}

/* NULL: nothing was ever set near there. `fls` may be NULL. */
static struct fls_slot *slot_at(struct fls *fls, DWORD index)
{
	unsigned int chunk = chunk_of(index);
	struct fls_slot *slots;

	if (!fls)
		return NULL;
	slots = atomic_load_explicit(&fls->chunks[chunk], memory_order_acquire);
	return slots ? &slots[index + FLS_FIRST - (FLS_FIRST << chunk)] : NULL;
}

/* The caller's: a fiber's, else the thread's, which may be NULL. */
static struct fls *current(struct windows_fiber *handle)
{
	return handle ? &handle->fls : thread_self()->fls;
}

static int chunk_add(struct windows_fiber *handle, DWORD index)
{
	unsigned int chunk = chunk_of(index);
	struct fls_slot *slots;
	struct fls *fls;
	int err;

	err = thread_watch();
	if (!err && handle)
		err = handle_watch(handle);
	if (err && err != EPERM)
		return err;
	if (!handle && !thread_self()->fls)
		thread_self()->fls = calloc(1, sizeof(*fls));
	fls = current(handle);
	if (!fls)
		return ENOMEM;
	slots = calloc(FLS_FIRST << chunk, sizeof(*slots));
	if (!slots)
		return ENOMEM;
	pthread_mutex_lock(&windows_lock);
	atomic_store_explicit(&fls->chunks[chunk], slots, memory_order_release);
	if (!fls->next)
		link_before(fls, &all);
	pthread_mutex_unlock(&windows_lock);
	return 0;
}

/* Takes a value of that generation away. With the lock held. */
static void *take(struct fls *fls, DWORD index, uint64_t generation)
{
	struct fls_slot *slot = slot_at(fls, index);

	if (!slot || atomic_load(&slot->generation) != generation)
		return NULL;
	return atomic_exchange(&slot->value, NULL);
}

/* Whether the caller ever had a value or allocated an index, as Windows tells apart. */
static bool present(struct windows_fiber *handle)
{
	struct fls *fls = current(handle);

	return fls && fls->next;
}

DWORD WINAPI FlsAlloc(PFLS_CALLBACK_FUNCTION callback)
{
	struct windows_fiber *handle = handle_current();
	DWORD index;

	if (!present(handle) && chunk_add(handle, 1)) {
		SetLastError(ERROR_NOT_ENOUGH_MEMORY);
		return FLS_OUT_OF_INDEXES;
	}
	pthread_mutex_lock(&windows_lock);
	for (index = 1; index < FLS_MAXIMUM_AVAILABLE; index++)
		if (!(atomic_load(&indices[index].generation) & 1) && !indices[index].dying)
			break;
	if (index < FLS_MAXIMUM_AVAILABLE) {
		indices[index].callback = callback;
		atomic_fetch_add(&indices[index].generation, 1);
	}
	pthread_mutex_unlock(&windows_lock);
	if (index < FLS_MAXIMUM_AVAILABLE)
		return index;
	SetLastError(ERROR_NOT_ENOUGH_MEMORY);
	return FLS_OUT_OF_INDEXES;
}

/* The next value of that index, behind the mark, which is moved on. */
static void *take_next(DWORD index, uint64_t generation)
{
	struct fls *mark = &marks[index];
	void *value = NULL;

	pthread_mutex_lock(&windows_lock);
	while (!value && mark->next != &all) {
		struct fls *fls = mark->next;

		value = take(fls, index, generation);
		unlink_it(mark);
		link_before(mark, fls->next);
	}
	pthread_mutex_unlock(&windows_lock);
	return value;
}

BOOL WINAPI FlsFree(DWORD index)
{
	PFLS_CALLBACK_FUNCTION callback = NULL;
	uint64_t generation = 0;
	bool allocated = false;
	void *value;

	pthread_mutex_lock(&windows_lock);
	if (in_range(index)) {
		generation = atomic_load(&indices[index].generation);
		allocated = generation & 1;
	}
	if (allocated) {
		callback = indices[index].callback;
		indices[index].dying = true;
		atomic_store(&indices[index].generation, generation + 1);
		link_before(&marks[index], all.next);
	}
	pthread_mutex_unlock(&windows_lock);
	if (!allocated) {
		SetLastError(ERROR_INVALID_PARAMETER);
		return FALSE;
	}
	if (callback)
		while ((value = take_next(index, generation)))
			callback(value);
	pthread_mutex_lock(&windows_lock);
	unlink_it(&marks[index]);
	indices[index].dying = false;
	pthread_mutex_unlock(&windows_lock);
	return TRUE;
}

/* False: there is no such index, or the caller has no values at all. */
static bool get(DWORD index, void **value)
{
	struct windows_fiber *handle = handle_current();
	struct fls_slot *slot;

	*value = NULL;
	if (!in_range(index) || !present(handle))
		return false;
	slot = slot_at(current(handle), index);
	if (slot && atomic_load(&slot->generation) == atomic_load(&indices[index].generation))
		*value = atomic_load(&slot->value);
	return true;
}

PVOID WINAPI FlsGetValue2(DWORD index)
{
	void *value;

	get(index, &value);
	return value;
}

PVOID WINAPI FlsGetValue(DWORD index)
{
	void *value;

	SetLastError(get(index, &value) ? ERROR_SUCCESS : ERROR_INVALID_PARAMETER);
	return value;
}

BOOL WINAPI FlsSetValue(DWORD index, PVOID value)
{
	struct windows_fiber *handle = handle_current();
	struct fls_slot *slot;
	int err;

	if (!in_range(index)) {
		SetLastError(ERROR_INVALID_PARAMETER);
		return FALSE;
	}
	slot = slot_at(current(handle), index);
	if (!slot) {
		err = chunk_add(handle, index);
		if (err) {
			SetLastError(ERROR_NOT_ENOUGH_MEMORY);
			return FALSE;
		}
		slot = slot_at(current(handle), index);
	}
	/* In this order: a value of before must not look like one of now. */
	atomic_store(&slot->value, NULL);
	atomic_store(&slot->generation, atomic_load(&indices[index].generation));
	atomic_store(&slot->value, value);
	return TRUE;
}

/* The first value that has to be called back, from *index on. */
static void *take_any(struct fls *fls, DWORD *index, PFLS_CALLBACK_FUNCTION *callback)
{
	void *value = NULL;

	pthread_mutex_lock(&windows_lock);
	for (; !value && *index < FLS_MAXIMUM_AVAILABLE; ++*index) {
		uint64_t generation = atomic_load(&indices[*index].generation);

		*callback = indices[*index].callback;
		/* FlsFree() may be calling back and not have come here yet. */
		if (indices[*index].dying)
			generation--;
		if (generation & 1)
			value = take(fls, *index, generation);
		if (!*callback)
			value = NULL;
	}
	pthread_mutex_unlock(&windows_lock);
	return value;
}

void fls_end(struct fls *fls)
{
	PFLS_CALLBACK_FUNCTION callback;
	DWORD index = 1;
	unsigned int i;
	void *value;

	if (!fls->next)
		return;
	while ((value = take_any(fls, &index, &callback)))
		callback(value);
	pthread_mutex_lock(&windows_lock);
	/* A callback may have moved it all, by a conversion. */
	if (fls->next) {
		unlink_it(fls);
		for (i = 0; i < FLS_CHUNKS; i++)
			free(atomic_exchange(&fls->chunks[i], NULL));
	}
	pthread_mutex_unlock(&windows_lock);
}

void fls_move(struct fls *to, struct fls *from)
{
	unsigned int i;

	if (!from->next)
		return;
	pthread_mutex_lock(&windows_lock);
	for (i = 0; i < FLS_CHUNKS; i++)
		atomic_store(&to->chunks[i], atomic_exchange(&from->chunks[i], NULL));
	link_before(to, from);
	unlink_it(from);
	pthread_mutex_unlock(&windows_lock);
}
