/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "checker.h"
#include "fiber_cb.h"
#include "observer.h"
#include "otel.h"
#include "sanitizer.h"
#include "span.h"
#include "trace.h"

struct fiber_cb *fiber_cbs;
struct fiber_extra *fiber_extras;
_Atomic uint32_t fiber_cb_slots, fiber_cb_direct, fiber_cb_otel;
/* These are here because the route of a switch depends on them. */
const struct fiber_observer *_Atomic observer;
void **_Atomic otel_pointers;
struct trace kfiber_trace = {
	.magic = "kfiberTr",
	.version = 1,
	.size = sizeof(struct trace),
	.routes = { &fiber_cb_direct, &fiber_cb_otel },
	.room = TRACE_ROOM,
	.event_size = sizeof(struct trace_event),
};

/* Where they lie; the second is never shorter than the first. */
static struct span span, extra_span;

/* Those at and above this slot were never used. Under the lock. */
static uint32_t slots_used = 1;

/* Whole pages with room for so many slots. */
static size_t bytes(uint32_t slots, size_t each)
{
	const size_t page = 4096;

	return (slots * each + page - 1) & ~(page - 1);
}

/* How many, if fiber_switch() does all of a switch in assembly; `otel`: in that copy of it. */
static uint32_t direct(bool otel)
{
	if (sanitizer_watches() || observer_watches() || trace_wanted() || otel != otel_travels())
		return 0;
	return atomic_load(&fiber_cb_slots);
}

/* Whoever changes what it depends on calls this afterwards, so the last of them stores what holds. */
void fiber_cb_route(void)
{
	uint32_t plain, otel;

	do {
		plain = direct(false);
		otel = direct(true);
		atomic_store(&fiber_cb_direct, plain);
		atomic_store(&fiber_cb_otel, otel);
	} while (plain != direct(false) || otel != direct(true));
}

/* Of both, what has been added. */
static void show_roots(void)
{
	static size_t cb_bytes, extra_bytes;

	if (span.size > cb_bytes)
		sanitizer_root(span.start + cb_bytes, span.size - cb_bytes);
	if (extra_span.size > extra_bytes)
		sanitizer_root(extra_span.start + extra_bytes, extra_span.size - extra_bytes);
	cb_bytes = span.size;
	extra_bytes = extra_span.size;
}

static void publish(void)
{
	show_roots();
	atomic_store_explicit(&fiber_cb_slots, (uint32_t)(span.size / sizeof(struct fiber_cb)),
			      memory_order_release);
	fiber_cb_route();
}

int fiber_cb_init(void)
{
	const uint32_t first = SPAN_STEP / sizeof(struct fiber_cb);
	int err;

	if (fiber_cbs)
		return 0;
	checker_open();
	if (!fiber_extras) {
		err = span_open(&extra_span, NULL, bytes(first, sizeof(struct fiber_extra)),
				CB_SLOTS * sizeof(struct fiber_extra), -1);
		if (err)
			return err;
		fiber_extras = (struct fiber_extra *)extra_span.start;
	}
	err = span_open(&span, NULL, SPAN_STEP, CB_SLOTS * sizeof(struct fiber_cb), -1);
	if (err)
		return err;
	fiber_cbs = (struct fiber_cb *)span.start;
	publish();
	return 0;
}

int fiber_cb_reserve(uint32_t slot)
{
	int err;

	if (slot < fiber_cb_slots)
		return 0;
	err = span_grow(&span, bytes(slot + 1, sizeof(struct fiber_cb)));
	if (!err)
		err = span_grow(&extra_span, bytes((uint32_t)(span.size / sizeof(struct fiber_cb)),
						   sizeof(struct fiber_extra)));
	if (!err)
		publish();
	return err;
}

void fiber_cb_used(uint32_t slots)
{
	if (slots_used < slots)
		slots_used = slots;
}

struct fiber_cb *fiber_cb_next(uint32_t *slot)
{
	while (*slot < slots_used) {
		struct fiber_cb *cb = &fiber_cbs[(*slot)++];

		if ((atomic_load(&cb->owner) & OWNER_MASK) != OWNER_NONE)
			return cb;
	}
	return NULL;
}
