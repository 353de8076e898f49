/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "fiber_cb.h"
#include "fls.h"
#include "thread.h"

struct storage {
	uint64_t used[FIBER_FLS_MAX / 64];
	uint64_t values[FIBER_FLS_MAX];
};

void storage_drop(struct fiber_cb *cb)
{
	struct fiber_extra *extra = fiber_extra_used(cb);

	if (!extra || !extra->storage)
		return;
	munmap(extra->storage, sizeof(*extra->storage));
	extra->storage = NULL;
}

int user_fls_alloc(uint64_t *index)
{
	struct fiber_cb *cb = thread_cb();
	struct fiber_extra *extra;
	unsigned int i;

	if (!cb)
		return EPERM;
	extra = fiber_extra(cb);
	if (!extra->storage) {
		void *start = mmap(NULL, sizeof(*extra->storage), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (start == MAP_FAILED)
			return ENOMEM;
		atomic_fetch_or(&cb->flags, CB_EXTRA);
		if (!__sync_bool_compare_and_swap(&extra->storage, NULL, start))
			munmap(start, sizeof(*extra->storage));
	}
	for (i = 0; i < FIBER_FLS_MAX / 64; i++) {
		uint64_t *used = &extra->storage->used[i], before;
		unsigned int bit = 0;

		/* A handler may allocate as well. */
		do {
			before = __atomic_load_n(used, __ATOMIC_RELAXED);
			if (!~before)
				break;
			bit = (unsigned int)__builtin_ctzll(~before);
			before = __atomic_fetch_or(used, UINT64_C(1) << bit, __ATOMIC_RELAXED);
		} while (before >> bit & 1);
		if (!~before)
			continue;
		*index = i * 64 + bit;
		extra->storage->values[*index] = 0;
		return 0;
	}
	return EAGAIN;
}

/* The place of an allocated position of the calling fiber. */
static int storage_find(uint64_t index, struct storage **storage)
{
	struct fiber_cb *cb = thread_cb();

	if (!cb)
		return EPERM;
	*storage = fiber_extra(cb)->storage;
	if (!*storage || index >= FIBER_FLS_MAX ||
	    !((*storage)->used[index / 64] >> (index % 64) & 1))
		return EINVAL;
	return 0;
}

int user_fls_free(uint64_t index)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		__atomic_fetch_and(&storage->used[index / 64], ~(UINT64_C(1) << (index % 64)),
				   __ATOMIC_RELAXED);
	return err;
}

int user_fls_set(uint64_t index, uint64_t value)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		storage->values[index] = value;
	return err;
}

int user_fls_get(uint64_t index, uint64_t *value)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		*value = storage->values[index];
	return err;
}
