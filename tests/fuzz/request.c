/* SPDX-License-Identifier: MIT */
/* Requests: valid, at the borders, and wrong ones; and what must become of them. */
#include <errno.h>
#include <string.h>

#include "call.h"
#include "fuzz.h"

static void check(enum kind kind, long result)
{
	if (result == (kind == VERSION ? FIBER_ABI_VERSION : 0) || result == -EBADF)
		return;
	if (result == -EPERM && kind != VERSION)
		return;
	for (size_t i = 0; result < 0 && i < ARRAY_SIZE(kinds[kind].errors); i++)
		if (result == -kinds[kind].errors[i])
			return;
	fail("%s gave %ld, which the ABI does not name", kinds[kind].name, result);
}

static long request_as(enum kind kind, int fd, unsigned int cmd, unsigned long arg)
{
	long result;

	atomic_fetch_add_explicit(&shared->calls, 1, memory_order_relaxed);
	result = CALL(SYS_ioctl, fd, cmd, arg, 0);
	if (result <= 0 && result > -ERRNOS)
		atomic_fetch_add_explicit(&shared->results[kind][-result], 1, memory_order_relaxed);
	else if (kind == VERSION)
		atomic_fetch_add_explicit(&shared->results[kind][0], 1, memory_order_relaxed);
	check(kind, result);
	return result;
}

long request(enum kind kind, int fd, unsigned long arg)
{
	return request_as(kind, fd, kinds[kind].cmd, arg);
}

static int any_device(uint64_t random)
{
	return DEVICE_FD + (random % 16 ? 0 : (int)(random >> 8 & (DEVICE_FDS - 1)));
}

uint64_t live_id(uint64_t random)
{
	for (unsigned int i = 0; i < MEMBERS; i++) {
		uint64_t id = atomic_load(&members[(random + i) % MEMBERS]);

		if (id && id != TAKEN)
			return id;
	}
	return atomic_load(&owns[random % ARRAY_SIZE(owns)]);
}

uint64_t any_id(uint64_t random)
{
	static const uint64_t borders[] = {
		0, 1, 2, 3, 64, 65, 511, 512, 65536, (1 << FIBER_SLOT_BITS) - 1,
		1 << FIBER_SLOT_BITS, (1 << FIBER_SLOT_BITS) + 1, UINT32_MAX, INT64_MAX,
		UINT64_C(1) << 63, UINT64_MAX,
	};
	uint64_t rest = random >> 8;

	switch (random % 20) {
	case 0:
		return atomic_load(&stale[rest % ARRAY_SIZE(stale)]);
	case 1:
		return borders[rest % ARRAY_SIZE(borders)];
	case 2:
		return live_id(rest) ^ UINT64_C(1) << rest % 64;
	case 3:
		return rest & 1 ? rest : 1 + rest % 64;
	case 4 ... 6:
		/* Of threads, alive or not. */
		rest %= ARRAY_SIZE(owns);
		return atomic_load(&owns[rest < atomic_load(&owns_next) ? rest : 0]);
	default:
		return live_id(rest);
	}
}

void *any_pointer(uint64_t random, void *good, size_t size)
{
	uintptr_t bad[] = {
		0, 1, PAGE - 1,
		(uintptr_t)pages + PAGE,			/* read-only */
		(uintptr_t)pages + PAGE - size / 2,		/* half of it is */
		(uintptr_t)pages + 2 * PAGE - size / 2,		/* half of it is not there */
		(uintptr_t)pages + 2 * PAGE,
		(uintptr_t)pages + 3 * PAGE - 1,
		UINT64_C(0x7ffffffff000) - size / 2, UINT64_C(0x7ffffffff000),
		UINT64_C(0x800000000000), UINT64_C(0xdead000000000100),
		UINT64_C(0xffff888000000000), UINT64_C(0xffffffff81000000),
		UINT64_C(0xffffffffff600000), UINTPTR_MAX - size / 2, UINTPTR_MAX,
		(uintptr_t)late, (uintptr_t)late + PAGE,
		(uintptr_t)late + 2 * PAGE - size / 2,		/* over two of them */
	};

	if (random % 16)
		return good;
	return (void *)bad[(random >> 8) % ARRAY_SIZE(bad)];
}

static bool is_good(const void *pointer, const void *good)
{
	return pointer == good;
}

/* The most that a structure is longer than this version's, but for those that are too long. */
#define TAIL 64

/*
 * Gives a structure, behind which TAIL bytes are 0, now and then the size that an older or a newer
 * program gives it, or a wrong one. Returns whether the kernel must refuse that.
 */
static bool vary_size(void *args, uint32_t own, uint64_t random)
{
	uint32_t *size = args;

	*size = own;
	if (random & 7)
		return false;
	random >>= 3;
	switch (random & 3) {
	case 0:
		*size = (uint32_t)(random >> 2) % own;
		return true;
	case 1:
		*size = 4097 + ((uint32_t)(random >> 2) & INT32_MAX);
		return true;
	}
	*size = own + 1 + (uint32_t)(random >> 2) % TAIL;
	if (random >> 10 & 1)
		return false;
	((char *)args)[own + (random >> 11) % (*size - own)] = (char)(1 + (random >> 20) % 255);
	return true;
}

static void convert(const struct step *step)
{
	struct {
		struct fiber_convert args;
		char tail[TAIL];
	} sent = { .args = { .flags = step->a >> 8 & 1 } };
	struct fiber_convert *args = &sent.args;
	void *pointer = any_pointer(step->b, args, sizeof(*args));
	bool refuse = vary_size(args, sizeof(*args), step->a >> 16);
	long result;

	if (!(step->b >> 16 & 15)) {
		args->flags |= (uint32_t)step->c | 0x10;
		refuse = true;
	}
	result = request(CONVERT, any_device(step->c), (unsigned long)pointer);
	if (result)
		return;
	if (!is_good(pointer, args) || refuse)
		fail("CONVERT accepted bad arguments");
	atomic_store(&owns[atomic_fetch_add(&owns_next, 1) % ARRAY_SIZE(owns)], args->id);
}

static void fill_name(char *name, uint64_t random)
{
	unsigned int length = random % FIBER_NAME_SIZE;

	/* Unterminated now and then. */
	if (!(random >> 8 & 15))
		length = FIBER_NAME_SIZE;
	memset(name, 0, FIBER_NAME_SIZE);
	for (unsigned int i = 0; i < length; i++) {
		name[i] = (char)(random_next(&random) | 1);
		if (random >> 60)
			name[i] = (char)(0x20 + (name[i] & 0x3f));
	}
}

/* Makes one field one that must be refused. */
static void spoil(struct fiber_create *args, uint64_t random)
{
	switch (random % 11) {
	case 0:
		args->flags |= (uint32_t)(random >> 32) | 0x20;
		break;
	case 1:
		args->size = (uint32_t)(random >> 32) % sizeof(*args);
		break;
	case 2:
		memset(args->name, 'x', sizeof(args->name));
		break;
	case 3:
		args->entry = 0;
		break;
	case 4:
		args->entry = (random | UINT64_C(1) << 63) >> (random >> 32 & 15);
		break;
	case 5:
		args->stack_size = (random >> 32) % FIBER_STACK_MIN;
		break;
	case 6:
		args->stack_size = UINT64_MAX - (random >> 32);
		break;
	case 7:
		args->stack_start = 0;
		break;
	case 8:
		args->stack_start = random | UINT64_C(1) << 63;
		break;
	case 9:
		args->stack_size = UINT64_C(0x7ffffffff001) - args->stack_start;
		break;
	case 10:
		args->start = (random | UINT64_C(1) << 63) >> (random >> 32 & 15);
		break;
	}
}

static void create(const struct step *step)
{
	/* Any alignment will do. */
	char buffer[sizeof(struct fiber_create) + 8 + TAIL] = { 0 };
	char *good = buffer + (step->a >> 40 & 7);
	struct fiber_create args;
	unsigned int place = step->a % MEMBERS;
	void *pointer = any_pointer(step->b, good, sizeof(args));
	bool refuse = !(step->b >> 16 & 7);
	uint64_t none = 0;
	long result;

	if (!atomic_compare_exchange_strong(&members[place], &none, TAKEN))
		return;
	memset(&args, 0, sizeof(args));
	args.size = sizeof(args);
	args.entry = (uintptr_t)body;
	args.arg = place;
	args.stack_start = (uintptr_t)stacks + place * STACK_SIZE;
	/* Any end will do as well. */
	args.stack_size = STACK_SIZE - (step->a >> 44 & 31);
	args.flags = step->a >> 8 & 1;
	fill_name(args.name, step->c);
	if (args.name[FIBER_NAME_SIZE - 1])
		refuse = true;
	else if (refuse)
		spoil(&args, step->c);
	memcpy(good, &args, sizeof(args));
	if (!refuse)
		refuse = vary_size(good, sizeof(args), step->b >> 24);
	result = request(CREATE, any_device(step->c), (unsigned long)pointer);
	if (!result) {
		if (!is_good(pointer, good) || refuse)
			fail("CREATE accepted bad arguments");
		memcpy(&args, good, sizeof(args));
	}
	atomic_store(&members[place], result ? 0 : args.id);
}

/* Of the member that has it, or -1. The borders among drawn ids have TAKEN as well: nobody's. */
static int place_of(uint64_t id)
{
	for (int i = 0; id && id != TAKEN && i < MEMBERS; i++)
		if (atomic_load(&members[i]) == id)
			return i;
	return -1;
}

static void delete(const struct step *step)
{
	uint64_t id = any_id(step->a), gone = id;
	/* Before the request: a guessed id may be a fiber's that is created after it. */
	int place = place_of(id);
	long result = request(DELETE, any_device(step->c), id);

	if (result && result != -ESRCH)
		return;
	/* It is gone for good: its stack is free. */
	if (place >= 0)
		atomic_compare_exchange_strong(&members[place], &gone, 0);
	if (!result)
		atomic_store(&stale[atomic_fetch_add(&stale_next, 1) % ARRAY_SIZE(stale)], id);
}

static void set_name(const struct step *step)
{
	struct {
		struct fiber_name args;
		char tail[TAIL];
	} sent = { .args = { .id = step->a >> 40 & 3 ? any_id(step->a) : 0 } };
	struct fiber_name *args = &sent.args;
	void *pointer = any_pointer(step->b, args, sizeof(*args));
	bool refuse = vary_size(args, sizeof(*args), step->b >> 32);

	fill_name(args->name, step->c);
	if (!(step->b >> 28 & 15)) {
		args->pad = (uint32_t)step->c | 1;
		refuse = true;
	}
	if (!request(SET_NAME, any_device(step->b >> 16), (unsigned long)pointer) &&
	    (args->name[FIBER_NAME_SIZE - 1] || refuse) && is_good(pointer, args))
		fail("SET_NAME accepted bad arguments");
}

/* What comes back makes sense, whoever changes the fiber meanwhile. */
static void stat_fiber(const struct step *step)
{
	struct {
		struct fiber_snapshot args;
		char tail[TAIL];
	} sent = { .args = { .id = step->a >> 40 & 3 ? any_id(step->a) : 0 } };
	struct fiber_snapshot *args = &sent.args;
	uint64_t id = args->id;
	void *pointer = any_pointer(step->b, args, sizeof(*args));
	bool refuse = vary_size(args, sizeof(*args), step->b >> 32);

	args->pad = (uint32_t)step->c;
	args->state = UINT32_MAX;
	if (request(STAT, any_device(step->b >> 16), (unsigned long)pointer) ||
	    !is_good(pointer, args))
		return;
	if (refuse)
		fail("STAT accepted a bad size");
	if (args->state > FIBER_STATE_FINISHED || args->pad || (id && args->id != id) ||
	    args->engine != FIBER_ENGINE_KERNEL || !args->parent ||
	    args->longest_run > args->cpu_time || args->name[FIBER_NAME_SIZE - 1] ||
	    (args->state == FIBER_STATE_RUNNING) != !!args->thread ||
	    (args->state == FIBER_STATE_RUNNING && (args->ip || args->sp)))
		fail("STAT of %llu: state %u thread %u parent %u engine %u ip 0x%llx",
		     (unsigned long long)args->id, args->state, args->thread, args->parent,
		     args->engine, (unsigned long long)args->ip);
}

static uint64_t any_index(uint64_t random)
{
	static const uint64_t borders[] = {
		FIBER_FLS_MAX - 1, FIBER_FLS_MAX, 63, 64, UINT32_MAX, UINT64_C(1) << 32,
		UINT64_MAX, INT64_MAX,
	};

	if (random % 8)
		return (random >> 8) % 4;
	return borders[(random >> 8) % ARRAY_SIZE(borders)];
}

static void fls(const struct step *step)
{
	struct {
		struct fiber_fls args;
		char tail[TAIL];
	} sent = { .args = { .index = any_index(step->a), .value = step->c } };
	struct fiber_fls *args = &sent.args;
	void *pointer = any_pointer(step->b, args, sizeof(*args));
	bool refuse = vary_size(args, sizeof(*args), step->b >> 32);

	if (!request(step->kind, any_device(step->b >> 16), (unsigned long)pointer) &&
	    is_good(pointer, args) && (args->index >= FIBER_FLS_MAX || refuse))
		fail("%s accepted the index %llu, size %u", kinds[step->kind].name,
		     (unsigned long long)args->index, args->size);
}

/* Takes all positions, and gives them back. */
void fls_fill(const struct step *step)
{
	uint64_t index;
	int taken = 0;

	/* A few more than there are: handlers free some meanwhile. */
	while (taken <= FIBER_FLS_MAX && !request(FLS_ALLOC, DEVICE_FD, (unsigned long)&index))
		taken++;
	if (taken && step->a & 3)
		for (index = 0; index < FIBER_FLS_MAX; index++)
			request(FLS_FREE, DEVICE_FD, index);
}

static void unknown(const struct step *step)
{
	unsigned int cmd = (unsigned int)step->a, known = kinds[step->c % UNKNOWN].cmd;

	switch (step->b % 4) {
	case 0:
		cmd = (cmd & ~0xff00U) | FIBER_IOC_MAGIC << 8;
		break;
	case 1:
		/* Of another size or direction. */
		cmd = known ^ (cmd & 0x3fff0000) ^ (cmd & 1) << 30;
		break;
	case 2:
		cmd = known ^ 1U << cmd % 32;
		break;
	default:
		cmd = (cmd & ~0xff00U) | (FIBER_IOC_MAGIC - 1) << 8;
		break;
	}
	for (int i = 0; i < UNKNOWN; i++)
		if (cmd == kinds[i].cmd)
			cmd ^= 0x40;
	/* table.c's. */
	if (cmd == FIBER_IOC_COMMIT || cmd == FIBER_IOC_ATTACH || cmd == FIBER_IOC_DETACH)
		cmd ^= 0x40;
	if (!request_as(UNKNOWN, any_device(step->c >> 8), cmd,
			(unsigned long)any_pointer(step->c >> 16, scratch, 128)))
		fail("the request 0x%x exists", cmd);
}

/* The control words are the fiber's, whatever its flags. */
static void switch_fiber(const struct step *step, enum place place)
{
	struct { uint32_t mxcsr; uint16_t fcw; } before = { 0 }, after = { 0 };
	long result;

	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m" (before.mxcsr), "=m" (before.fcw));
	result = request(SWITCH, any_device(step->c), any_id(step->a));
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m" (after.mxcsr), "=m" (after.fcw));
	if (!result && place == ALTERNATE)
		fail("SWITCH left the alternate stack");
	if (before.mxcsr != after.mxcsr || before.fcw != after.fcw)
		fail("MXCSR 0x%x, control word 0x%x became 0x%x, 0x%x", before.mxcsr, before.fcw,
		     after.mxcsr, after.fcw);
}

void perform_request(const struct step *step, enum place place)
{
	uint64_t id;
	void *pointer;

	switch (step->kind) {
	case VERSION:
		request(VERSION, any_device(step->a), step->b);
		break;
	case CONVERT:
		convert(step);
		break;
	case CREATE:
		create(step);
		break;
	case SWITCH:
		switch_fiber(step, place);
		break;
	case DELETE:
		delete(step);
		break;
	case REVERT:
	case RETIRE:
		/* RETIRE may wait: only where SIGALRM is not blocked. */
		if (place == NORMAL)
			request(step->kind, any_device(step->c), step->a);
		break;
	case SET_NAME:
		set_name(step);
		break;
	case STAT:
		stat_fiber(step);
		break;
	case SELF:
	case FLS_ALLOC:
		pointer = any_pointer(step->b, &id, sizeof(id));
		request(step->kind, any_device(step->c), (unsigned long)pointer);
		break;
	case FLS_FREE:
		request(FLS_FREE, any_device(step->c), any_index(step->a));
		break;
	case FLS_SET:
	case FLS_GET:
		fls(step);
		break;
	default:
		unknown(step);
	}
}

