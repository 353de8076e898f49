/* SPDX-License-Identifier: MIT */
#include "thread.h"

struct fiber_cb thread_nobody;

/* Of a thread that was never a fiber. */
static struct exceptions nothing;

_Thread_local struct thread thread = { .current = &thread_nobody, .exceptions = &nothing };
