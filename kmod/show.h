/* SPDX-License-Identifier: GPL-2.0-only */
/* The text of a fiber in /proc. */
#ifndef FIBER_SHOW_H
#define FIBER_SHOW_H

#include <linux/types.h>

struct fiber_snapshot;
struct seq_file;

void fiber_show(struct seq_file *m, const struct fiber_snapshot *snapshot, bool addresses);

#endif /* FIBER_SHOW_H */
