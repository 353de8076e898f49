/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "fiber_cb.h"
#include "key.h"
#include "lock.h"
#include "thread.h"

#define BLOCK_VALUES	32
#define BLOCKS		(FIBER_KEYS_MAX / BLOCK_VALUES)

/*
 * A key's generation is odd while it exists, and a value belongs to the generation that it was
 * set in: of another one it is none. So nothing has to be cleared when a key is created.
 */
struct value {
	/*
	 * Read and written by its fiber. Taken away (exchanged for NULL) by who
	 * deletes the key, under the lock.
	 */
	void *_Atomic data;
	union {
		_Atomic uint64_t generation;
		/* Once the values are closed. */
		void (*destructor)(void *);
	};
};

struct block {
	struct value values[BLOCK_VALUES];
};

/* Only the fiber itself adds blocks; they stay until values_destroy(). */
struct values {
	struct block *_Atomic blocks[BLOCKS];
};

static struct key {
	/* Changed under the lock, read by all. */
	_Atomic uint64_t generation;
	/* Under the lock. */
	void (*destructor)(void *);
	/* Deleted, but values are still being taken. */
	bool dying;
} keys[FIBER_KEYS_MAX];

static struct value *values_at(struct values *values, fiber_key_t key)
{
	struct block *block;

	if (!values)
		return NULL;
	block = atomic_load_explicit(&values->blocks[key / BLOCK_VALUES], memory_order_acquire);
	return block ? &block->values[key % BLOCK_VALUES] : NULL;
}

void values_close(struct values *values)
{
	fiber_key_t key;

	if (!values)
		return;
	for (key = 0; key < FIBER_KEYS_MAX; key++) {
		struct value *value = values_at(values, key);

		uint64_t generation = atomic_load(&keys[key].generation) - keys[key].dying;

		if (value)
			value->destructor = (generation & 1) && value->generation == generation ?
						    keys[key].destructor : NULL;
	}
}

void values_free(struct values *values)
{
	size_t i;

	if (!values)
		return;
	for (i = 0; i < BLOCKS; i++)
		free(values->blocks[i]);
	free(values);
}

void values_destroy(struct values *values)
{
	struct lock_state state;
	fiber_key_t key;

	if (!values)
		return;
	for (key = 0; key < FIBER_KEYS_MAX; key++) {
		struct value *value = values_at(values, key);
		void *data = value ? atomic_exchange(&value->data, NULL) : NULL;

		if (data && value->destructor)
			value->destructor(data);
	}
	lock_take(&state);
	values_free(values);
	lock_drop(&state);
}

int fiber_key_create(fiber_key_t *key, void (*destructor)(void *))
{
	struct lock_state state;
	int err = EAGAIN;
	fiber_key_t k;

	if (!key)
		return EINVAL;
	lock_take(&state);
	for (k = 0; k < FIBER_KEYS_MAX; k++) {
		if ((atomic_load(&keys[k].generation) & 1) || keys[k].dying)
			continue;
		keys[k].destructor = destructor;
		atomic_fetch_add(&keys[k].generation, 1);
		*key = k;
		err = 0;
		break;
	}
	lock_drop(&state);
	return err;
}

/* Takes the next value of that generation of a key away from its fiber. With the lock held. */
static void *key_take(fiber_key_t key, uint64_t generation, uint32_t *slot)
{
	struct fiber_cb *cb;

	while ((cb = fiber_cb_next(slot))) {
		struct value *value = values_at(atomic_load(&fiber_extra(cb)->values), key);
		void *data = NULL;

		if (value && value->generation == generation)
			data = atomic_exchange(&value->data, NULL);
		if (data)
			return data;
	}
	return NULL;
}

int fiber_key_delete(fiber_key_t key)
{
	void (*destructor)(void *) = NULL;
	struct lock_state state;
	uint64_t generation;
	uint32_t slot = 1;
	int err = EINVAL;
	void *data;

	if (key >= FIBER_KEYS_MAX)
		return EINVAL;
	lock_take(&state);
	generation = atomic_load(&keys[key].generation);
	if (generation & 1) {
		keys[key].dying = true;
		atomic_store(&keys[key].generation, generation + 1);
		destructor = keys[key].destructor;
		err = 0;
	}
	lock_drop(&state);
	if (err)
		return err;

	/* One by one: a destructor may use everything, so it runs without the lock. */
	do {
		lock_take(&state);
		data = key_take(key, generation, &slot);
		if (!data) {
			keys[key].destructor = NULL;
			keys[key].dying = false;
		}
		lock_drop(&state);
		if (data && destructor)
			destructor(data);
	} while (data);
	return 0;
}

/* The calling fiber's control block, and the generation of a key that exists. */
static int key_cb(fiber_key_t key, struct fiber_cb **cb, uint64_t *generation)
{
	*generation = key < FIBER_KEYS_MAX ? atomic_load(&keys[key].generation) : 0;
	if (!(*generation & 1))
		return EINVAL;
	*cb = thread_cb();
	return *cb ? 0 : EPERM;
}

static int values_add(struct fiber_cb *cb, fiber_key_t key)
{
	struct fiber_extra *extra = fiber_extra(cb);
	struct values *values = atomic_load(&extra->values);
	struct block *block;

	if (!values) {
		values = calloc(1, sizeof(*values));
		if (!values)
			return ENOMEM;
		atomic_fetch_or(&cb->flags, CB_EXTRA);
		atomic_store_explicit(&extra->values, values, memory_order_release);
	}
	block = calloc(1, sizeof(*block));
	if (!block)
		return ENOMEM;
	atomic_store_explicit(&values->blocks[key / BLOCK_VALUES], block, memory_order_release);
	return 0;
}

int fiber_key_set(fiber_key_t key, void *data)
{
	struct lock_state state;
	struct fiber_cb *cb;
	struct value *value;
	uint64_t generation;
	int err;

	err = key_cb(key, &cb, &generation);
	if (err)
		return err;
	value = values_at(atomic_load(&fiber_extra(cb)->values), key);
	if (!value) {
		if (!data)
			return 0;
		lock_take(&state);
		err = values_add(cb, key);
		lock_drop(&state);
		if (err)
			return err;
		value = values_at(atomic_load(&fiber_extra(cb)->values), key);
	}
	/* In this order: a value of before must not look like one of now. */
	if (value->generation != generation) {
		atomic_store(&value->data, NULL);
		value->generation = generation;
	}
	atomic_store(&value->data, data);
	/* Deleted meanwhile: either that has seen the value, or nobody ever will. */
	if (atomic_load(&keys[key].generation) != generation && data &&
	    atomic_compare_exchange_strong(&value->data, &data, NULL))
		return EINVAL;
	return 0;
}

int fiber_key_get(fiber_key_t key, void **data)
{
	struct fiber_cb *cb;
	struct value *value;
	uint64_t generation;
	int err;

	if (!data)
		return EINVAL;
	err = key_cb(key, &cb, &generation);
	if (err)
		return err;
	value = values_at(atomic_load(&fiber_extra(cb)->values), key);
	*data = value && value->generation == generation ? atomic_load(&value->data) : NULL;
	return 0;
}
