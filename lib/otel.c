/* SPDX-License-Identifier: MIT */
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine.h"
#include "fiber_cb.h"
#include "lock.h"
#include "otel.h"
#include "otel_process.h"
#include "thread.h"

#define SYMBOL "otel_thread_ctx_v1"

/* As readers know it. A key, a length and so many bytes are an attribute. */
struct otel_record {
	unsigned char trace_id[16];
	unsigned char span_id[8];
	volatile unsigned char valid;
	unsigned char trace_flags;
	uint16_t size;
	unsigned char attributes[100];
};

_Static_assert(offsetof(struct otel_record, attributes) == 28, "packed");
_Static_assert(sizeof(struct otel_record) == 1 << OTEL_SHIFT, "");

struct otel_record *_Atomic otel_records;

/* Has the symbol; for dlsym(), which answers for the calling thread. NULL: none is known. */
static void *_Atomic object;

/* How many objects had been loaded, ever, when all of them were searched. */
static _Atomic uint64_t searched;

/* The names of objects with thread-locals; those beyond are not searched. */
struct objects {
	uint64_t loaded;
	unsigned int count;
	const char *names[256];
};

static int note_object(struct dl_phdr_info *info, size_t size, void *found)
{
	struct objects *objects = found;

	(void)size;
	objects->loaded = info->dlpi_adds;
	if (info->dlpi_tls_modid && objects->count < 256)
		objects->names[objects->count++] = info->dlpi_name;
	return 0;
}

static int note_loaded(struct dl_phdr_info *info, size_t size, void *loaded)
{
	(void)size;
	*(uint64_t *)loaded = info->dlpi_adds;
	return 1;
}

/* Finds it, wherever it was loaded from. It stays loaded from then on. */
static void search(void)
{
	struct objects objects;
	uint64_t loaded = 0;
	unsigned int i;

	dl_iterate_phdr(note_loaded, &loaded);
	if (loaded == atomic_load(&searched))
		return;
	objects.count = 0;
	dl_iterate_phdr(note_object, &objects);
	for (i = 0; i < objects.count && !object; i++) {
		const char *name = *objects.names[i] ? objects.names[i] : NULL;
		void *handle = dlopen(name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);

		if (handle && dlsym(handle, SYMBOL))
			atomic_store(&object, handle);
		else if (handle)
			dlclose(handle);
	}
	atomic_store(&searched, objects.loaded);
}

/* Zeroed, and without memory until it is written. NULL: no address space. */
static void *by_slot(size_t each)
{
	void *start = mmap(NULL, CB_SLOTS * each, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return start == MAP_FAILED ? NULL : start;
}

/* With the lock held. ENOENT: no object has the symbol. ENOMEM. */
static int travel(void)
{
	void **pointers;

	if (otel_travels())
		return 0;
	search();
	if (!object)
		return ENOENT;
	pointers = by_slot(sizeof(*pointers));
	if (!pointers)
		return ENOMEM;
	atomic_store(&otel_pointers, pointers);
	fiber_cb_route();
	return 0;
}

/* The calling thread's variable. By a busy thread. */
static void **variable(void)
{
	struct thread *self = thread_self();

	if (!self->otel)
		self->otel = dlsym(object, SYMBOL);
	return self->otel;
}

static struct otel_record *record_of(fiber_id_t id)
{
	struct otel_record *records = atomic_load_explicit(&otel_records, memory_order_relaxed);

	return records ? &records[id & OWNER_MASK] : NULL;
}

static bool is_record(const void *pointer)
{
	struct otel_record *records = atomic_load_explicit(&otel_records, memory_order_relaxed);

	return records && (uintptr_t)pointer - (uintptr_t)records < CB_SLOTS * sizeof(*records);
}

static unsigned char *put(unsigned char *to, unsigned char key, const char *text, size_t length)
{
	*to++ = key;
	*to++ = (unsigned char)length;
	memcpy(to, text, length);
	return to + length;
}

/* Readers stop the thread, so the order of stores is all that matters. */
static void write_record(struct otel_record *record, fiber_id_t id, const char *name)
{
	unsigned char *end = record->attributes;
	char digits[20], *first = digits + sizeof(digits);

	record->valid = 0;
	atomic_signal_fence(memory_order_seq_cst);
	for (uint64_t rest = id; rest; rest /= 10)
		*--first = (char)('0' + rest % 10);
	end = put(end, OTEL_FIBER_ID, first, (size_t)(digits + sizeof(digits) - first));
	if (*name)
		end = put(end, OTEL_FIBER_NAME, name, strnlen(name, FIBER_NAME_MAX));
	record->size = (uint16_t)(end - record->attributes);
	atomic_signal_fence(memory_order_seq_cst);
	record->valid = 1;
}

void otel_created(fiber_id_t id, const char *name)
{
	struct otel_record *record = record_of(id);

	if (!record)
		return;
	memset(record, 0, offsetof(struct otel_record, attributes));
	write_record(record, id, name);
}

void otel_named(fiber_id_t id, const char *name)
{
	struct otel_record *record = record_of(id);

	if (record)
		write_record(record, id, name);
}

void otel_ended(fiber_id_t id)
{
	struct otel_record *record = record_of(id);
	void **pointers = otel_pointers;

	/* Where nothing was stored the page is not there. */
	if (pointers[id & OWNER_MASK])
		pointers[id & OWNER_MASK] = NULL;
	if (record)
		record->valid = 0;
}

void otel_switched(fiber_id_t from, fiber_id_t to)
{
	uint64_t busy = thread_busy();
	void *volatile *here = variable();
	void **pointers = otel_pointers, *now;

	if (!here)
		goto idle;
	now = *here;
	if (from)
		pointers[from & OWNER_MASK] = to ? now : NULL;
	/* A thread takes what it has along when it becomes a fiber or is none any more. */
	if (is_record(now) && (!from || !to))
		now = NULL;
	if (from && to)
		now = pointers[to & OWNER_MASK];
	if (!now && to)
		now = record_of(to);
	*here = now;
idle:
	thread_idle(busy);
}

void *otel_leave(void)
{
	void *volatile *here = variable();

	return here ? *here : NULL;
}

void otel_arrive(void *pointer, fiber_id_t id)
{
	void *volatile *here = variable();

	if (here)
		*here = pointer ? pointer : record_of(id);
}

/* With the lock held. */
static int enable(void)
{
	const struct engine *engine = engine_current();
	struct otel_record *records;
	struct fiber_cb *cb;
	uint32_t slot = 1;
	int err;

	if (otel_records)
		return 0;
	err = travel();
	if (err)
		return err;
	records = by_slot(sizeof(*records));
	if (!records)
		return ENOMEM;
	err = otel_process_publish();
	if (err) {
		munmap(records, CB_SLOTS * sizeof(*records));
		return err;
	}
	atomic_store(&otel_records, records);
	while (engine && (cb = fiber_cb_next(&slot))) {
		char name[FIBER_NAME_MAX + 1] = "";

		if (!owner_lives(atomic_load(&cb->owner), id_of(cb)))
			continue;
		engine->get_name(id_of(cb), name);
		otel_created(id_of(cb), name);
	}
	return 0;
}

int fiber_otel_enable(void)
{
	struct lock_state state;
	fiber_id_t self;
	int err;

	lock_take(&state);
	err = enable();
	lock_drop(&state);
	self = thread_fiber();
	if (!err && self)
		otel_switched(0, self);
	return err;
}

int fiber_otel_set_span(const unsigned char *trace_id, const unsigned char *span_id, unsigned int flags)
{
	struct otel_record *record = record_of(thread_fiber());

	if (!thread_fiber())
		return EPERM;
	if (!record)
		return ENOENT;
	if (!trace_id != !span_id)
		return EINVAL;
	record->valid = 0;
	atomic_signal_fence(memory_order_seq_cst);
	memset(record, 0, offsetof(struct otel_record, valid));
	if (trace_id) {
		memcpy(record->trace_id, trace_id, sizeof(record->trace_id));
		memcpy(record->span_id, span_id, sizeof(record->span_id));
	}
	record->trace_flags = trace_id ? (unsigned char)flags : 0;
	atomic_signal_fence(memory_order_seq_cst);
	record->valid = 1;
	return 0;
}

void otel_attach(void)
{
	static _Atomic bool asked;
	struct lock_state state;
	const char *wish;

	if (!atomic_exchange(&asked, true)) {
		wish = getenv("KFIBER_OTEL");
		if (wish && !strcmp(wish, "1"))
			fiber_otel_enable();
	}
	if (!otel_travels()) {
		lock_take(&state);
		travel();
		lock_drop(&state);
	}
	if (otel_travels())
		variable();
}

void otel_child(void)
{
	if (otel_records)
		otel_process_publish();
}
