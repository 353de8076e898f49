/* SPDX-License-Identifier: GPL-2.0-only */
/* Engine `kernel`: a thread becomes a fiber, and is only a thread again. */
#ifndef FIBER_CONVERT_H
#define FIBER_CONVERT_H

#include "types.h"

long fiber_convert(struct fiber_process *process, struct fiber_convert __user *user);
long fiber_revert(struct fiber_process *process);
long fiber_retire(struct fiber_process *process);
void fiber_convert_end(struct fiber_thread *thread);

#endif /* FIBER_CONVERT_H */
