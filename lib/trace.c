/* SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fiber_cb.h"
#include "thread.h"
#include "trace.h"

/* NULL: no memory. */
static struct trace_event *ring(void)
{
	struct trace_event *known = atomic_load(&kfiber_trace.ring), *made;
	const size_t size = TRACE_ROOM * sizeof(*made);

	if (known)
		return known;
	made = mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (made == MAP_FAILED)
		return NULL;
	if (atomic_compare_exchange_strong(&kfiber_trace.ring, &known, made))
		return made;
	munmap(made, size);
	return known;
}

void trace_switched(fiber_id_t from, fiber_id_t to)
{
	uint64_t until = atomic_load(&kfiber_trace.until), now, number;
	struct trace_event *events = ring(), *event;
	const struct thread *self = thread_self();
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	now = (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
	if (!events || now > until) {
		/* The tool may want more meanwhile. */
		if (atomic_compare_exchange_strong(&kfiber_trace.until, &until, 0))
			fiber_cb_route();
		return;
	}
	number = atomic_fetch_add(&kfiber_trace.count, 1) + 1;
	event = &events[(number - 1) % TRACE_ROOM];
	event->time = now;
	event->from = from;
	event->to = to;
	event->thread = self->area ? self->area->tid : (uint32_t)gettid();
	atomic_store_explicit(&event->number, number, memory_order_release);
}
