/* SPDX-License-Identifier: MIT */
/*
 * Engine `local`: user mode swaps the stacks. Control words are in control.h,
 * what others may see of it is the table of observations in uapi/fiber.h.
 *
 * A signal may land anywhere in a switch, and its handler may switch as well:
 * thread.busy makes that attempt EAGAIN. It is tested and set relative to the
 * thread pointer, by one instruction each, because until it is set a handler may
 * move the fiber to another thread; from then on the thread stays the same.
 *
 * Over switch_stacks() the thread changes all the same: nothing thread-local is
 * kept in a register there, thread_self() is asked anew.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "control.h"
#include "engine.h"
#include "lock.h"
#include "switch.h"

#define SLOTS		(1u << FIBER_SLOT_BITS)
#define SLOT_MASK	((uint64_t)SLOTS - 1)
#define GENERATION(id)	((id) & ~SLOT_MASK)
#define AREAS		FIBER_AREAS

_Static_assert(offsetof(struct control, sp) == CONTROL_SP, "switch_x86_64.S knows it");
_Static_assert(sizeof(struct fiber_slot) == 192, "three cache lines");
_Static_assert(FIBER_STATE_NEW == FIBER_NEW && FIBER_STATE_RUNNING == FIBER_RUNNING &&
	       FIBER_STATE_SUSPENDED == FIBER_SUSPENDED && FIBER_STATE_FINISHED == FIBER_FINISHED,
	       "states go through as they are");
_Static_assert(AREAS < OWNER_THREADS, "threads fit an owner word");

/* Changed by its own thread only; `busy` also by its signal handlers. */
struct thread {
	uint32_t busy;
	/* From 1; 0: the thread is no fiber. */
	uint32_t number;
	uint64_t current_id;
	struct control *current;
	struct fiber_slot *slot;
	struct control *own;
	uint64_t since;
	/* The stack that the thread began on. */
	uintptr_t stack_start, stack_end;
};

static _Thread_local struct thread thread __attribute__((tls_model("initial-exec"), used));

/* What of it single instructions use. */
#define BUSY_OFFSET	0
#define ID_OFFSET	8
_Static_assert(offsetof(struct thread, busy) == BUSY_OFFSET, "");
_Static_assert(offsetof(struct thread, current_id) == ID_OFFSET, "");

struct storage {
	uint64_t used[FIBER_FLS_MAX / 64];
	uint64_t values[FIBER_FLS_MAX];
};

/*
 * Mapped by open() and kept; entries below `slots_used` have been used. Under
 * the lock but for what control.h and the table's owners say.
 */
static struct control *controls;
static struct fiber_table *table;
static struct fiber_slot *slots;
static struct fiber_area *areas;
static _Atomic uint32_t slots_used = 1;
static uint32_t free_slots;
static uint64_t generation;

/* Asked anew each time: a compiler may keep the address of a thread-local over a switch. */
static inline struct thread *thread_self(void)
{
	struct thread *self;

	__asm__ volatile("movq thread@gottpoff(%%rip), %0\n\taddq %%fs:0, %0" : "=r"(self));
	return self;
}

static inline bool busy_begin(void)
{
	bool busy;

	__asm__ volatile("movq thread@gottpoff(%%rip), %%rax\n\t"
			 "cmpl $0, %%fs:%c1(%%rax)\n\t"
			 "jne 1f\n\t"
			 "movl $1, %%fs:%c1(%%rax)\n"
			 "1:"
			 : "=@ccne"(busy) : "i"(BUSY_OFFSET) : "rax", "memory");
	return !busy;
}

static inline void busy_end(struct thread *self)
{
	atomic_signal_fence(memory_order_release);
	__atomic_store_n(&self->busy, 0, __ATOMIC_RELAXED);
}

static inline uint64_t cycles(void)
{
	return __builtin_ia32_rdtsc();
}

static inline struct fiber_slot *slot_of(const struct control *control)
{
	return &slots[control - controls];
}

static void *map(size_t size)
{
	void *start = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return start == MAP_FAILED ? NULL : start;
}

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* How long a cycle takes; the longer ago the first look at both clocks, the more precisely. */
static void clock_measure(void)
{
	const uint32_t shift = 24;
	uint64_t ns;

	do
		ns = clock_ns() - table->clock;
	while (ns < 1000000);
	table->mult = (uint64_t)(((unsigned __int128)ns << shift) / (cycles() - table->cycles));
	table->shift = shift;
}

/* A page that others find by its name; where memfds are forbidden, one that they do not. */
static struct fiber_table *table_map(void)
{
	int file = memfd_create(FIBER_TABLE_NAME, MFD_CLOEXEC);
	void *page = MAP_FAILED;

	if (file < 0)
		return map(sizeof(struct fiber_table));
	if (!ftruncate(file, sizeof(struct fiber_table)))
		page = mmap(NULL, sizeof(struct fiber_table), PROT_READ | PROT_WRITE, MAP_PRIVATE,
			    file, 0);
	close(file);
	return page == MAP_FAILED ? NULL : page;
}

static int local_open(void)
{
	size_t controls_size = (size_t)SLOTS * sizeof(struct control);
	size_t slots_size = (size_t)SLOTS * sizeof(struct fiber_slot);

	if (table)
		return 0;
	controls = map(controls_size);
	slots = map(slots_size);
	areas = map(AREAS * sizeof(struct fiber_area));
	if (controls && slots && areas)
		table = table_map();
	if (!table) {
		if (controls)
			munmap(controls, controls_size);
		if (slots)
			munmap(slots, slots_size);
		if (areas)
			munmap(areas, AREAS * sizeof(struct fiber_area));
		return ENOMEM;
	}
	*table = (struct fiber_table) {
		.version = FIBER_TABLE_VERSION,
		.slots = SLOTS,
		.slots_used = 1,
		.areas = AREAS,
		.areas_used = 1,
		.slots_at = (uintptr_t)slots,
		.areas_at = (uintptr_t)areas,
		.clock = clock_ns(),
		.cycles = cycles(),
		.engine = "local",
	};
	clock_measure();
	__atomic_store_n(&table->magic, FIBER_TABLE_MAGIC, __ATOMIC_RELEASE);
	return 0;
}

/* A slot for a new fiber; its id is taken from now on. EAGAIN. With the lock held. */
static int slot_take(uint64_t *id)
{
	uint32_t slot = free_slots;

	if (slot) {
		free_slots = controls[slot].next_free;
	} else {
		slot = atomic_load_explicit(&slots_used, memory_order_relaxed);
		if (slot == SLOTS)
			return EAGAIN;
		atomic_store_explicit(&slots_used, slot + 1, memory_order_release);
		table->slots_used = slot + 1;
	}
	*id = generation | slot;
	return 0;
}

/* By the fiber's owner. */
static void storage_drop(struct control *control)
{
	if (control->storage)
		munmap(control->storage, sizeof(*control->storage));
	control->storage = NULL;
}

/* With the lock held, by the fiber's owner: its id is gone. */
static void slot_give(uint64_t id)
{
	uint32_t slot = id & SLOT_MASK;
	struct control *control = &controls[slot];

	storage_drop(control);
	memset(&slots[slot], 0, sizeof(slots[slot]));
	generation += SLOTS;
	control->next_free = free_slots;
	free_slots = slot;
	atomic_store_explicit(&control->owner, generation | OWNER_EMPTY, memory_order_release);
}

/* What a new fiber's slot shows. `name` is checked. */
static void slot_show(uint64_t id, uint32_t state, uint32_t area, const char *name)
{
	struct fiber_slot *slot = &slots[id & SLOT_MASK];

	slot->state = state;
	slot->area = area;
	slot->parent = (uint32_t)gettid();
	strncpy(slot->name, name, sizeof(slot->name) - 1);
	slot->last_switch = cycles();
	__atomic_store_n(&slot->id, id, __ATOMIC_RELEASE);
}

/* A number for the calling thread. EAGAIN. With the lock held. */
static int area_take(uint32_t *number)
{
	uint32_t i;

	for (i = 1; i < table->areas_used && areas[i].tid; i++)
		;
	if (i == AREAS)
		return EAGAIN;
	if (i == table->areas_used)
		table->areas_used = i + 1;
	areas[i].tid = (uint32_t)gettid();
	*number = i;
	return 0;
}

/* For telling whether a caller is on its signal's alternate stack without a system call. */
static void stack_measure(struct thread *self)
{
	pthread_attr_t attr;
	void *start;
	size_t size;

	self->stack_start = self->stack_end = 0;
	if (pthread_getattr_np(pthread_self(), &attr))
		return;
	if (!pthread_attr_getstack(&attr, &start, &size)) {
		self->stack_start = (uintptr_t)start;
		self->stack_end = (uintptr_t)start + size;
	}
	pthread_attr_destroy(&attr);
}

static int local_convert(unsigned int flags, fiber_id_t *id)
{
	struct thread *self = thread_self();
	struct control *control;
	int err;

	/* Of the FPU a call keeps the control words only, and those travel always. */
	(void)flags;
	if (self->number)
		return EEXIST;
	err = area_take(&self->number);
	if (err)
		return err;
	err = slot_take(id);
	if (err) {
		areas[self->number].tid = 0;
		self->number = 0;
		return err;
	}
	stack_measure(self);
	clock_measure();
	control = &controls[*id & SLOT_MASK];
	control->home = self->number;
	atomic_store_explicit(&control->owner, GENERATION(*id) | self->number,
			      memory_order_release);
	slot_show(*id, FIBER_STATE_RUNNING, self->number, "");
	self->current = self->own = control;
	self->slot = slot_of(control);
	self->since = self->slot->last_switch;
	self->current_id = areas[self->number].fiber = *id;
	return 0;
}

static void thread_clear(struct thread *self)
{
	areas[self->number].fiber = 0;
	areas[self->number].tid = 0;
	self->number = 0;
	self->current_id = 0;
	self->current = self->own = NULL;
	self->slot = NULL;
}

static int local_revert(void)
{
	struct thread *self = thread_self();
	uint64_t id = self->current_id;

	if (!self->number)
		return EPERM;
	if (self->current != self->own)
		return EINVAL;
	thread_clear(self);
	slot_give(id);
	return 0;
}

static void control_begin(struct control *control)
{
	uintptr_t *frame = (uintptr_t *)control->top - FRAME_WORDS;

	memset(frame, 0, FRAME_WORDS * sizeof(*frame));
	frame[FRAME_CONTROL_WORDS] = UINT64_C(0x37f) << 32 | 0x1f80;
	frame[FRAME_RBX] = (uintptr_t)control->entry;
	frame[FRAME_R12] = (uintptr_t)control->arg;
	frame[FRAME_RIP] = (uintptr_t)switch_start;
	control->sp = frame;
}

static int local_create(const struct engine_fiber *order, fiber_id_t *id)
{
	struct control *control;
	struct lock_state state;
	struct fiber_slot *slot;
	int err;

	if (!thread_self()->number)
		return EPERM;
	lock_take(&state);
	err = slot_take(id);
	lock_drop(&state);
	if (err)
		return err;
	control = &controls[*id & SLOT_MASK];
	control->home = 0;
	control->entry = (void (*)(void *))order->entry;
	control->arg = (void *)order->arg;
	control->top = (void **)(order->stack_start + order->stack_size) - 1;
	control_begin(control);
	slot = slot_of(control);
	slot->entry = order->entry;
	slot->stack_start = order->stack_start;
	slot->stack_size = order->stack_size;
	slot->sp = (uintptr_t)control->sp;
	slot_show(*id, FIBER_STATE_NEW, 0, order->name);
	atomic_store_explicit(&control->owner, GENERATION(*id) | OWNER_FREE, memory_order_release);
	return 0;
}

/* The fiber of that id, NULL if there was never one in its slot. */
static struct control *control_find(fiber_id_t id)
{
	uint32_t slot = id & SLOT_MASK;

	if (!slot || slot >= atomic_load_explicit(&slots_used, memory_order_acquire))
		return NULL;
	return &controls[slot];
}

/* Why a fiber cannot be taken, by the word that was found. */
static int refusal(fiber_id_t id, uint64_t owner)
{
	if (GENERATION(owner) != GENERATION(id) || (owner & OWNER_MASK) == OWNER_EMPTY)
		return ESRCH;
	return (owner & OWNER_MASK) == OWNER_FINISHED ? EOWNERDEAD : EBUSY;
}

static int local_delete(fiber_id_t id)
{
	struct control *control = control_find(id);
	uint64_t owner;

	if (!control)
		return ESRCH;
	owner = atomic_load(&control->owner);
	do {
		uint64_t word = owner & OWNER_MASK;

		if (GENERATION(owner) != GENERATION(id) ||
		    (word != OWNER_FREE && word != OWNER_FINISHED))
			return refusal(id, owner);
		if (word == OWNER_FREE && control->home)
			return EPERM;
	} while (!atomic_compare_exchange_weak(&control->owner, &owner,
					       GENERATION(id) | OWNER_EMPTY));
	slot_give(id);
	return 0;
}

static int futex(_Atomic uint64_t *word, int operation, uint32_t value)
{
	/* The low half: x86-64 is little-endian. */
	return (int)syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Gives back a fiber that the calling thread has left and saved. */
static inline void release(struct control *control, uint32_t number)
{
	uint64_t owner = atomic_load_explicit(&control->owner, memory_order_relaxed);

	/* Somebody else's own one may have been doomed meanwhile. */
	if (__builtin_expect(!control->home || control->home == number, 1)) {
		atomic_store_explicit(&control->owner, GENERATION(owner) | OWNER_FREE,
				      memory_order_release);
		return;
	}
	if (!(owner & OWNER_DOOMED) &&
	    atomic_compare_exchange_strong(&control->owner, &owner, GENERATION(owner) | OWNER_FREE))
		return;
	slot_of(control)->state = FIBER_STATE_FINISHED;
	atomic_store(&control->owner, GENERATION(owner) | OWNER_FINISHED);
	futex(&control->owner, FUTEX_WAKE, INT_MAX);
}

/* The part of a switch on the other side; switch_start calls it for a new fiber. */
void user_arrived(struct control *left)
{
	struct thread *self = thread_self();

	release(left, self->number);
	busy_end(self);
}

/*
 * Whether the caller is on its signal's alternate stack, whose frames the next
 * signal would overwrite. The kernel is asked only where the stack is neither
 * the fiber's nor the thread's.
 */
static bool on_alternate_stack(const struct thread *self)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	stack_t alternate;

	if (self->current == self->own ?
	    here - self->stack_start < self->stack_end - self->stack_start :
	    here - self->slot->stack_start < self->slot->stack_size)
		return false;
	return !syscall(SYS_sigaltstack, NULL, &alternate) && (alternate.ss_flags & SS_ONSTACK);
}

static __attribute__((noinline)) int switch_refuse(struct thread *self, struct control *to,
						   fiber_id_t id, uint64_t owner)
{
	int err = refusal(id, owner);

	if (err == EBUSY) {
		__atomic_fetch_add(&slot_of(to)->failed, 1, __ATOMIC_RELAXED);
		if (to == self->current)
			err = EINVAL;
	}
	return err;
}

static int switch_nested(fiber_id_t id)
{
	struct control *to = control_find(id);

	if (to)
		__atomic_fetch_add(&slot_of(to)->failed, 1, __ATOMIC_RELAXED);
	return EAGAIN;
}

/* Books the run that ends now. */
static inline void book(struct thread *self, uint64_t now)
{
	uint64_t run = now - self->since;

	self->slot->run_time += run;
	if (run > self->slot->longest_run)
		self->slot->longest_run = run;
	self->slot->area = 0;
}

/* Books the run that ends now, and makes the thread run `to`. */
static inline void account(struct thread *self, struct control *to, fiber_id_t id)
{
	struct fiber_slot *from_slot = self->slot, *to_slot = slot_of(to);
	uint64_t now = cycles();

	book(self, now);
	from_slot->last_switch = now;
	from_slot->state = FIBER_STATE_SUSPENDED;
	to_slot->activations++;
	to_slot->last_switch = now;
	to_slot->state = FIBER_STATE_RUNNING;
	to_slot->area = self->number;
	areas[self->number].fiber = id;
	self->since = now;
	self->slot = to_slot;
	self->current = to;
	self->current_id = id;
}

static int local_switch_to(fiber_id_t id)
{
	uint64_t owner = GENERATION(id) | OWNER_FREE;
	struct control *from, *to, *left;
	struct thread *self;
	int err = EPERM;

	if (!busy_begin())
		return switch_nested(id);
	self = thread_self();
	from = self->current;
	if (!from)
		goto refuse;
	to = control_find(id);
	err = ESRCH;
	if (!to)
		goto refuse;
	err = EINVAL;
	if (on_alternate_stack(self))
		goto refuse;
	if (!atomic_compare_exchange_strong_explicit(&to->owner, &owner,
						     GENERATION(id) | self->number,
						     memory_order_acquire, memory_order_relaxed)) {
		err = switch_refuse(self, to, id, owner);
		goto refuse;
	}
	self->slot->sp = (uintptr_t)__builtin_frame_address(0);
	account(self, to, id);
	left = switch_stacks(from, to);
	user_arrived(left);
	return 0;

refuse:
	busy_end(self);
	return err;
}

/* One instruction: the fiber may move to another thread at any time, its id stays. */
static int local_self(fiber_id_t *id)
{
	fiber_id_t self;

	__asm__ volatile("movq thread@gottpoff(%%rip), %0\n\tmovq %%fs:%c1(%0), %0"
			 : "=&r"(self) : "i"(ID_OFFSET));
	if (!self)
		return EPERM;
	*id = self;
	return 0;
}

/* Waits while another thread runs the own fiber. It may be called again. */
static int local_retire(void)
{
	struct thread *self = thread_self();
	struct control *own = self->own;
	uint64_t owner;

	if (!self->number)
		return EPERM;
	if (self->current == own)
		return EINVAL;
	if (!own)
		return 0;
	owner = atomic_load(&own->owner);
	for (;;) {
		uint64_t word = owner & OWNER_MASK;

		if (word == OWNER_FINISHED)
			break;
		if (word == OWNER_FREE) {
			if (atomic_compare_exchange_strong(&own->owner, &owner,
							   GENERATION(owner) | OWNER_FINISHED))
				break;
		} else if (!(word & OWNER_DOOMED)) {
			atomic_compare_exchange_strong(&own->owner, &owner, owner | OWNER_DOOMED);
			owner = atomic_load(&own->owner);
		} else {
			futex(&own->owner, FUTEX_WAIT, (uint32_t)owner);
			owner = atomic_load(&own->owner);
		}
	}
	slot_of(own)->state = FIBER_STATE_FINISHED;
	/* From now on anybody may delete it. */
	self->own = NULL;
	return 0;
}

/* Off the fiber's stack for good, and retired: the created fiber begins anew. */
static void local_leave(void)
{
	struct thread *self = thread_self();
	struct control *control = self->current;
	struct fiber_slot *slot = self->slot;

	if (!self->number)
		return;
	book(self, cycles());
	if (control->home) {
		slot->state = FIBER_STATE_FINISHED;
		thread_clear(self);
		atomic_store(&control->owner, GENERATION(slot->id) | OWNER_FINISHED);
		futex(&control->owner, FUTEX_WAKE, INT_MAX);
		return;
	}
	storage_drop(control);
	control_begin(control);
	slot->state = FIBER_STATE_NEW;
	thread_clear(self);
	release(control, 0);
}

/* In a forked child: what other threads ran is finished, and so are those threads' own. */
static void local_keep(void)
{
	struct thread *self = thread_self();
	uint32_t i;

	for (i = 1; i < atomic_load(&slots_used); i++) {
		struct control *control = &controls[i];
		uint64_t owner = atomic_load(&control->owner), word = owner & OWNER_MASK;

		if (word >= OWNER_FINISHED)
			continue;
		if (word == OWNER_FREE ? !control->home || control->home == self->number :
					 (word & ~OWNER_DOOMED) == self->number)
			continue;
		atomic_store(&control->owner, GENERATION(owner) | OWNER_FINISHED);
		slots[i].state = FIBER_STATE_FINISHED;
		slots[i].area = 0;
	}
	for (i = 1; i < table->areas_used; i++)
		if (i != self->number)
			memset(&areas[i], 0, sizeof(areas[i]));
	if (self->number)
		areas[self->number].tid = (uint32_t)gettid();
}

/* The fiber of that id, or NULL. With the lock held, which keeps it from being deleted. */
static struct control *control_living(fiber_id_t id)
{
	struct control *control = control_find(id);

	return control && refusal(id, atomic_load(&control->owner)) != ESRCH ? control : NULL;
}

static int local_set_name(fiber_id_t id, const char *name)
{
	struct control *control;
	struct lock_state state;
	char padded[FIBER_NAME_SIZE] = "";
	int err = 0;

	if (!id && local_self(&id))
		return EPERM;
	strncpy(padded, name, sizeof(padded) - 1);
	lock_take(&state);
	control = control_living(id);
	if (!control)
		err = ESRCH;
	else
		memcpy(slot_of(control)->name, padded, sizeof(padded));
	lock_drop(&state);
	return err;
}

static uint64_t nanoseconds(uint64_t count)
{
	return (uint64_t)((unsigned __int128)count * table->mult >> table->shift);
}

static int local_get_stat(fiber_id_t id, struct fiber_stat *stat)
{
	struct control *control;
	struct lock_state state;
	int err = 0;

	lock_take(&state);
	control = control_living(id);
	if (!control) {
		err = ESRCH;
	} else {
		const struct fiber_slot slot = *slot_of(control);
		uint64_t now = cycles(), run = 0;

		if (slot.state == FIBER_STATE_RUNNING && now > slot.last_switch)
			run = now - slot.last_switch;
		*stat = (struct fiber_stat) {
			.id = id,
			.state = (enum fiber_state)slot.state,
			.thread = slot.area ? areas[slot.area].tid : 0,
			.activations = slot.activations,
			.failed_activations = slot.failed,
			.cpu_time = FIBER_TIME_UNKNOWN,
			.run_time = nanoseconds(slot.run_time + run),
			.longest_run = nanoseconds(run > slot.longest_run ? run : slot.longest_run),
			.stack_start = slot.stack_start,
			.stack_size = slot.stack_size,
		};
		memcpy(stat->name, slot.name, sizeof(stat->name));
	}
	lock_drop(&state);
	return err;
}

/* The calling fiber's; it cannot go away meanwhile. NULL: the caller is no fiber. */
static struct control *control_self(void)
{
	fiber_id_t id;

	return local_self(&id) ? NULL : &controls[id & SLOT_MASK];
}

static int local_fls_alloc(uint64_t *index)
{
	struct control *control = control_self();
	unsigned int i;

	if (!control)
		return EPERM;
	if (!control->storage) {
		control->storage = map(sizeof(*control->storage));
		if (!control->storage)
			return ENOMEM;
	}
	for (i = 0; i < FIBER_FLS_MAX / 64; i++) {
		uint64_t *used = &control->storage->used[i];
		unsigned int bit;

		if (!~*used)
			continue;
		bit = (unsigned int)__builtin_ctzll(~*used);
		*used |= UINT64_C(1) << bit;
		*index = i * 64 + bit;
		control->storage->values[*index] = 0;
		return 0;
	}
	return EAGAIN;
}

/* The place of an allocated position of the calling fiber. */
static int storage_find(uint64_t index, struct storage **storage)
{
	struct control *control = control_self();

	if (!control)
		return EPERM;
	*storage = control->storage;
	if (!*storage || index >= FIBER_FLS_MAX ||
	    !((*storage)->used[index / 64] >> (index % 64) & 1))
		return EINVAL;
	return 0;
}

static int local_fls_free(uint64_t index)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		storage->used[index / 64] &= ~(UINT64_C(1) << (index % 64));
	return err;
}

static int local_fls_set(uint64_t index, uint64_t value)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		storage->values[index] = value;
	return err;
}

static int local_fls_get(uint64_t index, uint64_t *value)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		*value = storage->values[index];
	return err;
}

const struct engine engine_local = {
	.name = "local",
	.open = local_open,
	.keep = local_keep,
	.convert = local_convert,
	.revert = local_revert,
	.create = local_create,
	.delete = local_delete,
	.retire = local_retire,
	.leave = local_leave,
	.set_name = local_set_name,
	.get_stat = local_get_stat,
	.switch_to = local_switch_to,
	.self = local_self,
	.fls_alloc = local_fls_alloc,
	.fls_free = local_fls_free,
	.fls_set = local_fls_set,
	.fls_get = local_fls_get,
};
