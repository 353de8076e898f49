/* SPDX-License-Identifier: MIT */
/*
 * Engines `local` and `mapped`: user mode switches the stacks. Control words are
 * in control.h, what others may see of it is the table of observations in
 * uapi/fiber.h, and where that lies is all that the two differ in (table.h).
 *
 * The switch is in switch_x86_64.S. What it does not do in one go comes here: by
 * a jump, so that these functions return in its place.
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
#include "fls.h"
#include "lock.h"
#include "sanitizer.h"
#include "switch.h"
#include "table.h"
#include "thread.h"

_Static_assert(offsetof(struct control, owner) == CONTROL_OWNER, "switch_x86_64.S knows it");
_Static_assert(offsetof(struct control, sp) == CONTROL_SP, "");
_Static_assert(offsetof(struct control, home) == CONTROL_HOME, "");
_Static_assert(offsetof(struct control, stack_pages) == CONTROL_PAGES, "");
_Static_assert(offsetof(struct control, stack_start) == CONTROL_STACK, "");
_Static_assert(offsetof(struct control, entry) == CONTROL_ENTRY, "");
_Static_assert(offsetof(struct control, arg) == CONTROL_ARG, "");
_Static_assert(offsetof(struct thread, busy) == THREAD_BUSY, "");
_Static_assert(offsetof(struct thread, current_id) == THREAD_ID, "");
_Static_assert(offsetof(struct thread, current) == THREAD_CURRENT, "");
_Static_assert(offsetof(struct thread, slot) == THREAD_SLOT, "");
_Static_assert(offsetof(struct thread, area) == THREAD_AREA, "");
_Static_assert(offsetof(struct thread, takes) == THREAD_TAKES, "");
_Static_assert(offsetof(struct thread, runs) == THREAD_RUNS, "");
_Static_assert(offsetof(struct thread, number) == THREAD_NUMBER, "");
_Static_assert(offsetof(struct table, slots) == TABLE_SLOTS, "");
_Static_assert(offsetof(struct fiber_slot, activations) == SLOT_ACTIVATIONS, "");
_Static_assert(offsetof(struct fiber_slot, run_time) == SLOT_RUN_TIME, "");
_Static_assert(offsetof(struct fiber_slot, longest_run) == SLOT_LONGEST_RUN, "");
_Static_assert(offsetof(struct fiber_slot, last_switch) == SLOT_LAST_SWITCH, "");
_Static_assert(offsetof(struct fiber_slot, sp) == SLOT_SP, "");
_Static_assert(offsetof(struct fiber_slot, ip) == SLOT_IP, "");
_Static_assert(offsetof(struct fiber_slot, state) == SLOT_STATE, "");
_Static_assert(offsetof(struct fiber_slot, area) == SLOT_STATE + 4, "");
_Static_assert(sizeof(struct fiber_slot) == SLOT_SIZE, "");
_Static_assert(offsetof(struct fiber_slot, failed) == 64, "");
_Static_assert(offsetof(struct fiber_slot, name) == 128, "");
_Static_assert(offsetof(struct fiber_thread_area, fiber) == AREA_FIBER, "");
_Static_assert(offsetof(struct fiber_thread_area, since) == AREA_SINCE, "");
_Static_assert(offsetof(struct fiber_thread_area, off) == AREA_OFF, "");
_Static_assert(offsetof(struct fiber_thread_area, off_since) == AREA_OFF_SINCE, "");
_Static_assert(FIBER_STATE_SUSPENDED == STATE_SUSPENDED, "");
_Static_assert(FIBER_STATE_NEW == FIBER_NEW && FIBER_STATE_RUNNING == FIBER_RUNNING &&
	       FIBER_STATE_SUSPENDED == FIBER_SUSPENDED && FIBER_STATE_FINISHED == FIBER_FINISHED,
	       "states go through as they are");
_Static_assert(FIBER_THREAD_AREAS < OWNER_DOOMED, "threads fit an owner word");
_Static_assert(CONTROL_SLOTS == 1 << FIBER_SLOT_BITS, "");

_Thread_local struct thread thread;
struct table table;

struct storage {
	uint64_t used[FIBER_FLS_MAX / 64];
	uint64_t values[FIBER_FLS_MAX];
};

/* So many free fibers with their stacks a thread keeps to itself; half of them go at a time. */
#define SPARES	64

/* Where the table lies; set by open(). */
static const struct table_ops *backing;

/* Under the lock. */
static struct control *free_controls;

static inline uint64_t cycles(void)
{
	return __builtin_ia32_rdtsc();
}

static inline struct fiber_slot *slot_of(const struct control *control)
{
	return &table.slots[control - controls];
}

/* The one that it is, or will be when it is not free any more. By its owner. */
static inline fiber_id_t id_of(const struct control *control)
{
	return GENERATION(atomic_load_explicit(&control->owner, memory_order_relaxed)) |
	       control_slot(control);
}

/* By the fiber's owner, who does not change: the word has nobody to be taken from. */
static inline void own(struct control *control, uint64_t word)
{
	atomic_store_explicit(&control->owner, GENERATION(id_of(control)) | word,
			      memory_order_release);
}

static int futex(_Atomic uint64_t *word, int operation, uint32_t value,
		 const struct timespec *timeout)
{
	/* The low half: x86-64 is little-endian. */
	return (int)syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, timeout,
			    NULL, 0);
}

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The kernel knows how long a cycle takes, and has said so. Set by open(). */
static bool clock_given;

/* How long a cycle takes; the longer ago the first look at both clocks, the more precisely. */
static void clock_measure(void)
{
	const uint32_t shift = 24;
	uint64_t ns;

	if (clock_given)
		return;
	do
		ns = clock_ns() - table.head->clock;
	while (ns < 1000000);
	table.head->mult = (uint64_t)(((unsigned __int128)ns << shift) /
				      (cycles() - table.head->cycles));
	table.head->shift = shift;
}

static int user_open(const struct table_ops *ops, const char *name)
{
	int err;

	if (table.head)
		return 0;
	err = control_init();
	if (err)
		return err;
	err = ops->open();
	if (err)
		return err;
	/* The module has stored how long a cycle takes, if the table is its own. */
	clock_given = table.head->mult;
	*table.head = (struct fiber_table) {
		.version = FIBER_TABLE_VERSION,
		.slots = CONTROL_SLOTS,
		.slots_used = 1,
		.areas = FIBER_THREAD_AREAS,
		.areas_used = 1,
		.mult = table.head->mult,
		.shift = table.head->shift,
		.slots_at = (uintptr_t)table.slots,
		.areas_at = (uintptr_t)table.areas,
		.clock = clock_ns(),
		.cycles = cycles(),
		.slot_size = sizeof(struct fiber_slot),
		.area_size = sizeof(struct fiber_thread_area),
	};
	strncpy(table.head->engine, name, sizeof(table.head->engine) - 1);
	clock_measure();
	__atomic_store_n(&table.head->magic, FIBER_TABLE_MAGIC, __ATOMIC_RELEASE);
	backing = ops;
	return 0;
}

static int local_open(void)
{
	return user_open(&table_local, engine_local.name);
}

static int mapped_open(void)
{
	return user_open(&table_mapped, engine_mapped.name);
}

/* A free slot. EAGAIN, ENOMEM. With the lock held. */
static int control_take(struct control **control)
{
	uint32_t slot = table.head->slots_used;
	int err;

	*control = free_controls;
	if (free_controls) {
		free_controls = free_controls->sp;
		return 0;
	}
	if (slot == CONTROL_SLOTS)
		return EAGAIN;
	if (slot >= table.committed) {
		err = backing->commit(slot);
		if (err)
			return err;
	}
	table.head->slots_used = slot + 1;
	control_used(slot + 1);
	*control = &controls[slot];
	return 0;
}

/* With the lock held. */
static void control_give(struct control *control)
{
	const struct stack stack = control_stack(control);

	if (stack.start && !control->home)
		stack_free(&stack);
	control_set_stack(control, NULL);
	control->sp = free_controls;
	free_controls = control;
}

/* The calling thread's spare fibers go, down to that many. */
static void spares_give(struct thread *self, unsigned int keep)
{
	struct lock_state state;

	lock_take(&state);
	while (self->spares > keep) {
		struct control *control = self->spare;

		self->spare = control->sp;
		self->spares--;
		control_give(control);
	}
	lock_drop(&state);
}

/* By the fiber's owner. */
static void storage_drop(struct control *control)
{
	if (control->storage)
		munmap(control->storage, sizeof(*control->storage));
	control->storage = NULL;
}

/* All else is there: from now on others see it. */
static void slot_show(fiber_id_t id, struct fiber_slot *slot)
{
	__atomic_store_n(&slot->id, id, __ATOMIC_RELEASE);
}

/* As a new fiber's is: not yet shown, FIBER_STATE_NEW. */
static void slot_clear(struct fiber_slot *slot)
{
	__atomic_store_n(&slot->id, 0, __ATOMIC_RELEASE);
	/* By cache lines: the compiler makes the slow string instruction of all at once. */
	memset(slot, 0, 64);
	memset(&slot->failed, 0, 64);
	if (*slot->name)
		memset(slot->name, 0, sizeof(slot->name));
}

/* What is to be known of the calling thread's own stack, for telling it from others. */
static void stack_measure(struct control *control)
{
	pthread_attr_t attr;
	void *start;
	size_t size;

	control_set_stack(control, NULL);
	if (pthread_getattr_np(pthread_self(), &attr))
		return;
	if (!pthread_attr_getstack(&attr, &start, &size)) {
		control->stack_start = start;
		size /= STACK_PAGE;
		control->stack_pages = size < UINT32_MAX ? (uint32_t)size : UINT32_MAX;
	}
	pthread_attr_destroy(&attr);
}

/*
 * Gives back a fiber that the calling thread has left and saved, if it is somebody
 * else's own one: that thread may have doomed it meanwhile.
 */
void user_release(struct control *control)
{
	uint64_t owner = atomic_load_explicit(&control->owner, memory_order_relaxed);

	if (!(owner & OWNER_DOOMED) &&
	    atomic_compare_exchange_strong(&control->owner, &owner,
					   GENERATION(owner) | OWNER_FREE))
		return;
	slot_of(control)->state = FIBER_STATE_FINISHED;
	own(control, OWNER_FINISHED);
	futex(&control->owner, FUTEX_WAKE, INT_MAX, NULL);
}

/* The created fiber begins anew. By its owner. */
static void fiber_reset(struct control *control)
{
	struct fiber_slot *slot = slot_of(control);

	storage_drop(control);
	sanitizer_forget(control);
	control->sp = control;
	slot->state = FIBER_STATE_NEW;
	slot->area = 0;
}

/* The thread's own fiber is finished, by its owner: its stack is gone. */
static void fiber_finish(struct control *control)
{
	struct fiber_slot *slot = slot_of(control);

	slot->state = FIBER_STATE_FINISHED;
	slot->area = 0;
	own(control, OWNER_FINISHED);
	futex(&control->owner, FUTEX_WAKE, INT_MAX, NULL);
}

/*
 * That thread has vanished without a word (the exit system call): what it ran and
 * what it was. Its own fiber may be run by another thread, which finishes it then.
 * With the lock held.
 */
static void thread_reap(uint32_t number)
{
	struct control *control;
	uint32_t slot = 1;

	while ((control = control_next(&slot))) {
		uint64_t owner = atomic_load(&control->owner), word = owner & OWNER_MASK;

		if ((word & ~(uint64_t)OWNER_DOOMED) == number) {
			if (control->home) {
				fiber_finish(control);
			} else {
				fiber_reset(control);
				own(control, OWNER_FREE);
			}
			continue;
		}
		/* Finished, or doomed by whoever has it: never both alive and forgotten. */
		while (control->home == number && (word == OWNER_FREE || word < FIBER_THREAD_AREAS) &&
		       word != OWNER_NONE) {
			uint64_t next = word == OWNER_FREE ? GENERATION(owner) | OWNER_FINISHED :
							     owner | OWNER_DOOMED;

			if (atomic_compare_exchange_strong(&control->owner, &owner, next)) {
				if (word == OWNER_FREE)
					slot_of(control)->state = FIBER_STATE_FINISHED;
				break;
			}
			word = owner & OWNER_MASK;
		}
	}
	memset(&table.areas[number], 0, sizeof(table.areas[number]));
}

/* Whether that thread has vanished; then what it left is in order again. */
static bool thread_gone(uint32_t number)
{
	struct lock_state state;

	if (!number || number >= FIBER_THREAD_AREAS || !table_thread_is_dead(number))
		return false;
	lock_take(&state);
	if (table_thread_is_dead(number))
		thread_reap(number);
	lock_drop(&state);
	return true;
}

/* Whether whoever has that owner word has vanished; then the word is another one now. */
static bool owner_gone(uint64_t owner)
{
	uint64_t word = owner & OWNER_MASK;

	return word < OWNER_DELETED && thread_gone(word & ~(uint64_t)OWNER_DOOMED);
}

/* A number for the calling thread. EAGAIN. With the lock held. */
static int area_take(uint32_t *number)
{
	struct fiber_table *head = table.head;
	uint32_t i;
	int err;

	for (i = 1; i < head->areas_used; i++) {
		if (table_thread_is_dead(i))
			thread_reap(i);
		if (!table.areas[i].tid)
			break;
	}
	if (i == FIBER_THREAD_AREAS)
		return EAGAIN;
	err = backing->attach(i);
	if (err)
		return err;
	table.areas[i].tid = (uint32_t)gettid();
	if (i == head->areas_used)
		head->areas_used = i + 1;
	*number = i;
	return 0;
}

/* A run begins. */
static void area_begin(struct fiber_thread_area *area, uint64_t now)
{
	area->since = now;
	area->off_since = area->off;
}

/* With the lock held. */
static void area_give(uint32_t number)
{
	backing->detach();
	memset(&table.areas[number], 0, sizeof(table.areas[number]));
}

static int user_convert(unsigned int flags, fiber_id_t *id)
{
	struct thread *self = thread_self();
	struct control *control;
	struct lock_state state;
	struct fiber_slot *slot;
	uint32_t number;
	int err;

	/* Of the FPU a call keeps the control words only, and those travel always. */
	(void)flags;
	if (self->number)
		return EEXIST;
	lock_take(&state);
	err = area_take(&number);
	if (err)
		goto unlock;
	err = control_take(&control);
	if (err) {
		area_give(number);
		goto unlock;
	}
	clock_measure();
	stack_measure(control);
	sanitizer_convert(control);
	control->arg = NULL;
	control->home = number;
	*id = id_of(control);
	slot = slot_of(control);
	slot->parent = table.areas[number].tid;
	slot->state = FIBER_STATE_RUNNING;
	slot->area = number;
	slot->last_switch = cycles();
	slot_show(*id, slot);
	own(control, number);
	self->number = number;
	self->takes = number - (uint64_t)OWNER_FREE;
	self->runs = (uint64_t)number << 32 | FIBER_STATE_RUNNING;
	self->slot = slot;
	self->area = &table.areas[number];
	self->area->fiber = *id;
	area_begin(self->area, slot->last_switch);
	self->own = control;
	self->own_id = *id;
	self->current = control;
	self->current_id = *id;
unlock:
	lock_drop(&state);
	return err;
}

/* The thread is no fiber any more. */
static void thread_leave(struct thread *self)
{
	struct lock_state state;

	spares_give(self, 0);
	lock_take(&state);
	area_give((uint32_t)self->number);
	lock_drop(&state);
	self->number = 0;
	self->current_id = 0;
	self->current = self->own = NULL;
	self->slot = NULL;
	self->area = NULL;
}

/* Nobody finds it any more: what is left of it. By its owner, who made it OWNER_DELETED. */
static void bury(struct control *control, struct remains *remains)
{
	struct values *values;
	struct lock_state state;

	values = atomic_load_explicit(&control->values, memory_order_relaxed);
	if (values) {
		/* A key may be deleted just now, which looks at all fibers. */
		lock_take(&state);
		atomic_store_explicit(&control->values, NULL, memory_order_relaxed);
		values_close(values);
		lock_drop(&state);
	} else {
		lock_wait();
	}
	*remains = (struct remains) {
		.control = control,
		.owner = atomic_load(&control->owner),
		.values = values,
	};
}

static int user_revert(struct remains *remains)
{
	/* A switch in a handler would leave from a thread that is no fiber. */
	uint64_t busy = thread_busy();
	struct thread *self = thread_self();
	struct control *control = self->own;

	if (!self->number || self->current != control) {
		int err = self->number ? EINVAL : EPERM;

		thread_idle(busy);
		return err;
	}
	atomic_exchange(&control->owner, GENERATION(id_of(control)) | OWNER_DELETED);
	thread_leave(self);
	bury(control, remains);
	thread_idle(busy);
	return 0;
}

/* A free fiber with a stack of that many pages. */
static int fiber_take(struct thread *self, size_t stack_size, struct control **taken)
{
	struct control *control = self->spare;
	struct lock_state state;
	struct stack stack;
	int err;

	if (control && control->stack_pages == stack_size / STACK_PAGE) {
		self->spare = control->sp;
		self->spares--;
		*taken = control;
		return 0;
	}
	lock_take(&state);
	err = control_take(&control);
	if (err)
		goto unlock;
	err = stack_alloc(&stack, stack_size);
	if (err) {
		control_give(control);
		goto unlock;
	}
	control->home = 0;
	control_set_stack(control, &stack);
	*taken = control;
unlock:
	lock_drop(&state);
	return err;
}

static int user_create(const struct engine_fiber *order, fiber_id_t *id)
{
	uint64_t busy = thread_busy();
	struct thread *self = thread_self();
	struct control *control;
	struct fiber_slot *slot;
	int err = EPERM;

	if (!self->number)
		goto idle;
	err = fiber_take(self, order->stack_size, &control);
	if (err)
		goto idle;
	control->sp = control;
	control->entry = order->entry;
	control->arg = order->arg;
	*id = id_of(control);
	slot = slot_of(control);
	slot->entry = (uintptr_t)order->entry;
	slot->stack_start = (uintptr_t)control->stack_start;
	slot->stack_size = order->stack_size;
	slot->parent = self->area->tid;
	if (*order->name)
		strncpy(slot->name, order->name, sizeof(slot->name) - 1);
	slot_show(*id, slot);
	own(control, OWNER_FREE);
idle:
	thread_idle(busy);
	return err;
}

/* Why a fiber cannot be taken, by the word that was found. */
static int refusal(fiber_id_t id, uint64_t owner)
{
	if (!owner_lives(owner, id))
		return ESRCH;
	return (owner & OWNER_MASK) == OWNER_FINISHED ? EOWNERDEAD : EBUSY;
}

static int user_delete(fiber_id_t id, struct remains *remains)
{
	struct control *control = control_at(id);
	uint64_t owner = atomic_load(&control->owner), busy;

	/* From the fiber's end to user_free() there is nobody else to clear up. */
	busy = thread_busy();
	for (;;) {
		uint64_t word = owner & OWNER_MASK;
		int err = 0;

		if (!owner_lives(owner, id) || (word != OWNER_FREE && word != OWNER_FINISHED)) {
			if (owner_gone(owner)) {
				owner = atomic_load(&control->owner);
				continue;
			}
			err = refusal(id, owner);
		} else if (word == OWNER_FREE && control->home) {
			uint64_t before = owner;
			bool gone = thread_gone(control->home);

			/* The fiber's own home only if it has been there all the time. */
			owner = atomic_load(&control->owner);
			if (gone || owner != before)
				continue;
			err = EPERM;
		}
		if (err) {
			thread_idle(busy);
			return err;
		}
		if (atomic_compare_exchange_weak(&control->owner, &owner,
						 GENERATION(id) | OWNER_DELETED))
			break;
	}
	bury(control, remains);
	thread_idle(busy);
	return 0;
}

static void user_free(const struct remains *remains)
{
	struct control *control = remains->control;
	uint64_t busy = thread_busy();
	struct thread *self = thread_self();
	struct lock_state state;

	/* A destructor forked, and in the child all that was on its way out is free already. */
	if (atomic_load(&control->owner) != remains->owner) {
		thread_idle(busy);
		return;
	}
	if (control->storage)
		storage_drop(control);
	sanitizer_forget(control);
	slot_clear(slot_of(control));
	/* The next one's generation. */
	atomic_store_explicit(&control->owner, GENERATION(id_of(control)) + CONTROL_SLOTS,
			      memory_order_release);
	if (self->number && !control->home) {
		if (self->spares == SPARES)
			spares_give(self, SPARES / 2);
		control->sp = self->spare;
		self->spare = control;
		self->spares++;
	} else {
		lock_take(&state);
		control_give(control);
		lock_drop(&state);
	}
	thread_idle(busy);
}

/* A fiber's function where a sanitizer watches. */
static void begin_watched(void *control)
{
	struct control *self = control;

	sanitizer_arrive(NULL);
	thread_idle(0);
	self->entry(self->arg);
}

/*
 * The calling thread is busy and has taken a fiber in C, or one that is another
 * thread: such a one may have ended.
 */
int user_taken(struct control *to, fiber_id_t id)
{
	struct thread *self = thread_self();
	uint32_t home = to->home;
	void *left;
	int err;

	if (!home) {
		if (to->sp == to) {
			switch_begin(to);
			if (sanitizer_watches()) {
				((void **)to->sp)[FRAME_RBX] = begin_watched;
				((void **)to->sp)[FRAME_R12] = to;
			}
		}
	} else if (home != self->number &&
		   (table_thread_is_dead(home) ||
		    (atomic_load(&to->owner) & OWNER_MASK) != self->number)) {
		/* Or it had ended, and somebody doomed this one meanwhile. */
		fiber_finish(to);
		thread_idle(0);
		thread_gone(home);
		return EOWNERDEAD;
	}
	if (!sanitizer_watches())
		return switch_taken(to, id);
	left = sanitizer_leave(self->current, to);
	self->busy++;
	err = switch_taken(to, id);
	sanitizer_arrive(left);
	thread_idle(0);
	return err;
}

/* Whether the caller is on its signal's alternate stack, whose frames the next signal overwrites. */
static bool on_alternate_stack(const struct thread *self)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	struct stack stack = control_stack(self->current);
	stack_t alternate;

	if (here - (uintptr_t)stack.start < stack.size)
		return false;
	return !syscall(SYS_sigaltstack, NULL, &alternate) && (alternate.ss_flags & SS_ONSTACK);
}

static void count_failure(struct control *control)
{
	__atomic_fetch_add(&slot_of(control)->failed, 1, __ATOMIC_RELAXED);
}

/* The calling thread is busy by something else. */
int user_nested(fiber_id_t id)
{
	if (table.head && control_find(id))
		count_failure(control_at(id));
	return EAGAIN;
}

/*
 * The calling thread is busy by this switch and nothing else has changed: it is
 * no fiber, or not on its fiber's stack, or the fiber is not free.
 */
int user_refused(fiber_id_t id)
{
	struct thread *self = thread_self();
	struct control *from = self->current, *to;
	uint64_t owner;
	int err;

	if (!from) {
		const struct engine *engine = engine_current();

		thread_idle(0);
		return engine && engine->switch_to ? engine->switch_to(id) : EPERM;
	}
	if (on_alternate_stack(self)) {
		thread_idle(0);
		return EINVAL;
	}
	to = control_at(id);
	owner = GENERATION(id) | OWNER_FREE;
	while (!atomic_compare_exchange_strong(&to->owner, &owner, GENERATION(id) | self->number)) {
		if (owner_lives(owner, id) && owner_gone(owner)) {
			owner = GENERATION(id) | OWNER_FREE;
			continue;
		}
		err = refusal(id, owner);
		if (err == EBUSY) {
			count_failure(to);
			if (to == from)
				err = EINVAL;
		}
		thread_idle(0);
		return err;
	}
	return user_taken(to, id);
}

/* The same as switch_user(), for sanitizers. */
int user_switch(fiber_id_t id)
{
	return thread_busy() ? user_nested(id) : user_refused(id);
}

void fiber_prefetch(fiber_id_t id)
{
	struct control *control;
	const char *sp;

	if (!table.head)
		return;
	control = control_at(id);
	__builtin_prefetch(slot_of(control), 1);
	/* May be of another moment, which does no harm. */
	sp = __atomic_load_n(&control->sp, __ATOMIC_RELAXED);
	__builtin_prefetch(sp, 1);
	__builtin_prefetch(sp + 64, 1);
}

static int user_self(fiber_id_t *id)
{
	fiber_id_t self = thread_fiber();

	if (!self)
		return EPERM;
	*id = self;
	return 0;
}

/* Waits while another thread runs the own fiber. It may be called again. */
static int user_retire(void)
{
	/* A thread that vanishes wakes nobody. */
	const struct timespec patience = { .tv_nsec = 100000000 };
	struct thread *self = thread_self();
	struct control *control = self->own;
	uint64_t owner;

	if (!self->number)
		return EPERM;
	if (self->current == control)
		return EINVAL;
	if (!control)
		return 0;
	owner = atomic_load(&control->owner);
	/* Once it is finished anybody may delete it, and another fiber have its slot. */
	while (owner_lives(owner, self->own_id) && (owner & OWNER_MASK) != OWNER_FINISHED) {
		uint64_t word = owner & OWNER_MASK;

		if (word == OWNER_FREE) {
			/* Taken first, since from its finish on anybody may delete it. */
			if (!atomic_compare_exchange_strong(&control->owner, &owner,
							    GENERATION(owner) | self->number))
				continue;
			fiber_finish(control);
			break;
		}
		if (!(word & OWNER_DOOMED)) {
			atomic_compare_exchange_strong(&control->owner, &owner,
						       owner | OWNER_DOOMED);
		} else if (!owner_gone(owner)) {
			futex(&control->owner, FUTEX_WAIT, (uint32_t)owner, &patience);
		}
		owner = atomic_load(&control->owner);
	}
	self->own = NULL;
	return 0;
}

/* Books the run that ends now, and for good. */
static void book(struct thread *self)
{
	struct fiber_thread_area *area = self->area;
	int64_t run = (int64_t)(cycles() - area->since - (area->off - area->off_since));

	if (run < 0)
		run = 0;
	self->slot->run_time += (uint64_t)run;
	if (self->slot->longest_run < (uint64_t)run)
		self->slot->longest_run = (uint64_t)run;
}

/* Off the fiber's stack for good, and retired. */
static void user_leave(void)
{
	struct thread *self = thread_self();
	struct control *control = self->current;

	if (!self->number)
		return;
	book(self);
	/* Before its number is another thread's. */
	if (control->home) {
		fiber_finish(control);
	} else {
		fiber_reset(control);
		own(control, OWNER_FREE);
	}
	thread_leave(self);
}

/*
 * In a forked child: what other threads ran is finished, and so are those
 * threads' own. What they were making or freeing is free.
 */
static const struct engine *user_keep(void)
{
	const struct engine *engine = engine_current();
	struct thread *self = thread_self();
	uint32_t slot;

	if (backing->fork_child)
		engine = backing->fork_child((uint32_t)self->number);
	if (engine == &engine_local)
		backing = &table_local;
	self->spare = NULL;
	self->spares = 0;
	free_controls = NULL;
	for (slot = 1; slot < table.head->slots_used; slot++) {
		struct control *control = &controls[slot];
		uint64_t owner = atomic_load(&control->owner), word = owner & OWNER_MASK;

		if (word == OWNER_NONE || word == OWNER_DELETED) {
			atomic_store(&control->owner, word == OWNER_NONE ? owner :
				     GENERATION(owner) + CONTROL_SLOTS);
			atomic_store(&control->values, NULL);
			control->storage = NULL;
			slot_clear(&table.slots[slot]);
			control_give(control);
			continue;
		}
		if (word == OWNER_FINISHED)
			continue;
		if (word == OWNER_FREE ? !control->home || control->home == self->number :
					 (word & ~(uint64_t)OWNER_DOOMED) == self->number)
			continue;
		table.slots[slot].state = FIBER_STATE_FINISHED;
		table.slots[slot].area = 0;
		own(control, OWNER_FINISHED);
	}
	for (slot = 1; slot < table.head->areas_used; slot++)
		if (slot != self->number)
			memset(&table.areas[slot], 0, sizeof(table.areas[slot]));
	if (self->number) {
		self->slot = slot_of(self->current);
		self->area = &table.areas[self->number];
		self->area->tid = (uint32_t)gettid();
		self->area->fiber = self->current_id;
		area_begin(self->area, cycles());
	}
	return engine;
}

static void user_prepare(void)
{
	if (backing->fork_prepare)
		backing->fork_prepare();
}

static void user_parent(void)
{
	if (backing->fork_parent)
		backing->fork_parent();
}

static int user_set_name(fiber_id_t id, const char *name)
{
	struct control *control;
	struct lock_state state;
	char padded[FIBER_NAME_SIZE] = "";
	int err = 0;

	if (!id && user_self(&id))
		return EPERM;
	strncpy(padded, name, sizeof(padded) - 1);
	lock_take(&state);
	control = control_find(id);
	if (!control)
		err = ESRCH;
	else
		memcpy(slot_of(control)->name, padded, sizeof(padded));
	lock_drop(&state);
	return err;
}

static void user_get_name(fiber_id_t id, char *name)
{
	memcpy(name, slot_of(control_at(id))->name, FIBER_NAME_MAX);
}

static uint64_t nanoseconds(uint64_t count)
{
	return (uint64_t)((unsigned __int128)count * table.head->mult >> table.head->shift);
}

/* With the lock held. */
static void stat_read(fiber_id_t id, const struct fiber_slot *shown, struct fiber_stat *stat)
{
	const struct fiber_slot slot = *shown;
	const struct fiber_thread_area *area = &table.areas[slot.area];
	bool watched = backing == &table_mapped;
	uint64_t time, run = 0;

	if (slot.state == FIBER_STATE_RUNNING) {
		run = cycles() - area->since - (area->off - area->off_since);
		if ((int64_t)run < 0)
			run = 0;
	}
	time = nanoseconds(slot.run_time + run);
	*stat = (struct fiber_stat) {
		.id = id,
		.state = (enum fiber_state)slot.state,
		.thread = slot.area ? area->tid : 0,
		.activations = slot.activations,
		.failed_activations = slot.failed,
		.cpu_time = watched ? time : FIBER_TIME_UNKNOWN,
		.run_time = watched ? FIBER_TIME_UNKNOWN : time,
		.longest_run = nanoseconds(run > slot.longest_run ? run : slot.longest_run),
		.stack_start = slot.stack_start,
		.stack_size = slot.stack_size,
	};
	memcpy(stat->name, slot.name, sizeof(stat->name));
}

static int user_get_stat(fiber_id_t id, struct fiber_stat *stat)
{
	struct control *control;
	struct lock_state state;
	int err = 0;

	control = control_at(id);
	owner_gone(atomic_load(&control->owner));
	thread_gone(control->home);
	lock_take(&state);
	control = control_find(id);
	if (!control)
		err = ESRCH;
	else
		stat_read(id, slot_of(control), stat);
	lock_drop(&state);
	return err;
}

/* The calling fiber's; it cannot go away meanwhile. NULL: the caller is no fiber. */
static struct control *control_self(void)
{
	fiber_id_t id = thread_fiber();

	return id ? control_at(id) : NULL;
}

static int user_fls_alloc(uint64_t *index)
{
	struct control *control = control_self();
	unsigned int i;

	if (!control)
		return EPERM;
	if (!control->storage) {
		void *start = mmap(NULL, sizeof(*control->storage), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (start == MAP_FAILED)
			return ENOMEM;
		if (!__sync_bool_compare_and_swap(&control->storage, NULL, start))
			munmap(start, sizeof(*control->storage));
	}
	for (i = 0; i < FIBER_FLS_MAX / 64; i++) {
		uint64_t *used = &control->storage->used[i], before;
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

static int user_fls_free(uint64_t index)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		__atomic_fetch_and(&storage->used[index / 64], ~(UINT64_C(1) << (index % 64)),
				   __ATOMIC_RELAXED);
	return err;
}

static int user_fls_set(uint64_t index, uint64_t value)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		storage->values[index] = value;
	return err;
}

static int user_fls_get(uint64_t index, uint64_t *value)
{
	struct storage *storage;
	int err = storage_find(index, &storage);

	if (!err)
		*value = storage->values[index];
	return err;
}

#define ENGINE_USER				\
	.prepare = user_prepare,		\
	.parent = user_parent,			\
	.keep = user_keep,			\
	.convert = user_convert,		\
	.revert = user_revert,			\
	.create = user_create,			\
	.delete = user_delete,			\
	.free = user_free,			\
	.retire = user_retire,			\
	.leave = user_leave,			\
	.set_name = user_set_name,		\
	.get_stat = user_get_stat,		\
	.get_name = user_get_name,		\
	.self = user_self,			\
	.fls_alloc = user_fls_alloc,		\
	.fls_free = user_fls_free,		\
	.fls_set = user_fls_set,		\
	.fls_get = user_fls_get

const struct engine engine_local = { .name = "local", .open = local_open, ENGINE_USER };
const struct engine engine_mapped = { .name = "mapped", .open = mapped_open, ENGINE_USER };
