/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "control.h"
#include "engine.h"
#include "fls.h"
#include "lock.h"

#define BLOCK_VALUES	32
#define BLOCKS		(FIBER_KEYS_MAX / BLOCK_VALUES)

struct value {
	/*
	 * Read and written by its fiber. Taken away (exchanged for NULL) by who
	 * deletes the key, under the lock.
	 */
	void *_Atomic data;
	/* Set and used only once the values are closed. */
	void (*destructor)(void *);
};

struct block {
	struct value values[BLOCK_VALUES];
};

/* Only the fiber itself adds blocks; they stay until values_destroy(). */
struct values {
	struct block *_Atomic blocks[BLOCKS];
};

enum key_state {
	KEY_FREE,
	KEY_USED,
	KEY_DYING,	/* no longer usable, not yet available: values are being taken */
};

static struct key {
	/* Changed under the lock, read by all. */
	_Atomic int state;
	/* Under the lock. */
	void (*destructor)(void *);
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

		if (value)
			value->destructor = keys[key].destructor;
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
		if (atomic_load_explicit(&keys[k].state, memory_order_relaxed) != KEY_FREE)
			continue;
		keys[k].destructor = destructor;
		atomic_store(&keys[k].state, KEY_USED);
		*key = k;
		err = 0;
		break;
	}
	lock_drop(&state);
	return err;
}

/* Takes the next value of a dying key away from its fiber. With the lock held. */
static void *key_take(fiber_key_t key, uint32_t *slot)
{
	struct control *control;

	while ((control = control_next(slot))) {
		struct value *value = values_at(atomic_load(&control->values), key);
		void *data = value ? atomic_exchange(&value->data, NULL) : NULL;

		if (data)
			return data;
	}
	return NULL;
}

int fiber_key_delete(fiber_key_t key)
{
	void (*destructor)(void *) = NULL;
	struct lock_state state;
	uint32_t slot = 1;
	int err = EINVAL;
	void *data;

	if (key >= FIBER_KEYS_MAX)
		return EINVAL;
	lock_take(&state);
	if (atomic_load(&keys[key].state) == KEY_USED) {
		atomic_store(&keys[key].state, KEY_DYING);
		destructor = keys[key].destructor;
		err = 0;
	}
	lock_drop(&state);
	if (err)
		return err;

	/* One by one: a destructor may use everything, so it runs without the lock. */
	do {
		lock_take(&state);
		data = key_take(key, &slot);
		if (!data) {
			keys[key].destructor = NULL;
			atomic_store(&keys[key].state, KEY_FREE);
		}
		lock_drop(&state);
		if (data && destructor)
			destructor(data);
	} while (data);
	return 0;
}

/* The calling fiber's control words, for a key that exists. */
static int key_control(fiber_key_t key, struct control **control)
{
	fiber_id_t id;
	int err;

	if (key >= FIBER_KEYS_MAX || atomic_load(&keys[key].state) != KEY_USED)
		return EINVAL;
	err = fiber_self(&id);
	if (!err)
		*control = control_at(id);
	return err;
}

static int values_add(struct control *control, fiber_key_t key)
{
	struct values *values = atomic_load(&control->values);
	struct block *block;

	if (!values) {
		values = calloc(1, sizeof(*values));
		if (!values)
			return ENOMEM;
		atomic_store_explicit(&control->values, values, memory_order_release);
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
	struct control *control;
	struct value *value;
	int err;

	err = key_control(key, &control);
	if (err)
		return err;
	value = values_at(atomic_load(&control->values), key);
	if (!value) {
		if (!data)
			return 0;
		lock_take(&state);
		err = values_add(control, key);
		lock_drop(&state);
		if (err)
			return err;
		value = values_at(atomic_load(&control->values), key);
	}
	atomic_store(&value->data, data);
	return 0;
}

int fiber_key_get(fiber_key_t key, void **data)
{
	struct control *control;
	struct value *value;
	int err;

	if (!data)
		return EINVAL;
	err = key_control(key, &control);
	if (err)
		return err;
	value = values_at(atomic_load(&control->values), key);
	*data = value ? atomic_load(&value->data) : NULL;
	return 0;
}
