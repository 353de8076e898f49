/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sys/mman.h>

#include "control.h"

struct control *controls;

/* Those at and above this slot were never used. Under the lock. */
static uint32_t slots_used = 1;

int control_init(void)
{
	void *start;

	if (controls)
		return 0;
	start = mmap(NULL, CONTROL_SLOTS * sizeof(struct control), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return ENOMEM;
	/* Else two fibers would cost two megabytes where huge pages are the rule. */
	madvise(start, CONTROL_SLOTS * sizeof(struct control), MADV_NOHUGEPAGE);
	controls = start;
	return 0;
}

void control_used(uint32_t slots)
{
	if (slots_used < slots)
		slots_used = slots;
}

struct control *control_next(uint32_t *slot)
{
	while (*slot < slots_used) {
		struct control *control = &controls[(*slot)++];

		if ((atomic_load(&control->owner) & OWNER_MASK) != OWNER_NONE)
			return control;
	}
	return NULL;
}
