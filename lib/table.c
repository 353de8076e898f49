/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "table.h"
#include "uapi/fiber.h"

#define CHUNK_BITS	10
#define CHUNK_SIZE	(1u << CHUNK_BITS)
#define SLOTS		((size_t)1 << FIBER_SLOT_BITS)
#define SLOT_MASK	(SLOTS - 1)

/* Chunks are added under the lock and never moved or freed. */
static struct record *_Atomic chunks[SLOTS / CHUNK_SIZE];

/* Records at and above this slot were never used. Under the lock. */
static size_t slots_used;

static struct record *slot_record(size_t slot)
{
	struct record *chunk = atomic_load_explicit(&chunks[slot >> CHUNK_BITS],
						    memory_order_acquire);

	return chunk ? &chunk[slot & (CHUNK_SIZE - 1)] : NULL;
}

struct record *table_find(fiber_id_t id)
{
	struct record *record = id ? slot_record(id & SLOT_MASK) : NULL;

	if (!record || atomic_load_explicit(&record->id, memory_order_acquire) != id)
		return NULL;
	return record;
}

int table_insert(fiber_id_t id, void *arg, const struct stack *stack)
{
	size_t slot = id & SLOT_MASK;
	struct record *record = slot_record(slot);

	if (!record) {
		struct record *chunk = calloc(CHUNK_SIZE, sizeof(*chunk));

		if (!chunk)
			return ENOMEM;
		atomic_store_explicit(&chunks[slot >> CHUNK_BITS], chunk, memory_order_release);
		record = slot_record(slot);
	}
	record->arg = arg;
	record->stack = stack ? *stack : (struct stack){ 0 };
	atomic_store_explicit(&record->values, NULL, memory_order_relaxed);
	atomic_store_explicit(&record->id, id, memory_order_release);
	if (slots_used <= slot)
		slots_used = slot + 1;
	return 0;
}

void table_remove(struct record *record, struct stack *stack, struct values **values)
{
	atomic_store_explicit(&record->id, 0, memory_order_relaxed);
	*stack = record->stack;
	*values = atomic_exchange(&record->values, NULL);
}

struct record *table_next(size_t *slot)
{
	while (*slot < slots_used) {
		struct record *record = slot_record((*slot)++);

		if (record && atomic_load_explicit(&record->id, memory_order_relaxed))
			return record;
	}
	return NULL;
}
