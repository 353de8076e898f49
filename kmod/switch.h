/* SPDX-License-Identifier: GPL-2.0-only */
/* SwitchToFiber(). */
#ifndef FIBER_SWITCH_H
#define FIBER_SWITCH_H

#include "types.h"

long fiber_switch(struct fiber_process *process, u64 id);

#endif /* FIBER_SWITCH_H */
