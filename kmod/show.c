// SPDX-License-Identifier: GPL-2.0-only
/*
 * The text of a fiber in /proc, from a snapshot: the six lines of the reference
 * report first, then ours. Keys are only ever appended.
 */
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/nospec.h>
#include <linux/seq_file.h>
#include <linux/time64.h>

#include <fiber.h>

#include "show.h"

/*
 * A name as text: octal for whatever could end the line or drive a terminal, which
 * are the control characters of ASCII and, as UTF-8, those from U+0080 to U+009F,
 * and for the escape itself.
 */
static void show_name(struct seq_file *m, const char *name)
{
	const u8 *at;

	for (at = (const u8 *)name; *at; at++) {
		if (at[0] == 0xc2 && (at[1] & 0xe0) == 0x80) {
			seq_printf(m, "\\%03o\\%03o", at[0], at[1]);
			at++;
		} else if (*at < ' ' || *at == 0x7f || *at == '\\') {
			seq_printf(m, "\\%03o", *at);
		} else {
			seq_putc(m, *at);
		}
	}
}

static const char *state_name(u32 state)
{
	static const char *const names[] = {
		[FIBER_STATE_NEW] = "new",
		[FIBER_STATE_RUNNING] = "running",
		[FIBER_STATE_SUSPENDED] = "suspended",
		[FIBER_STATE_FINISHED] = "finished",
	};

	/* The state may come from shared memory. */
	if (state >= ARRAY_SIZE(names))
		return "finished";
	return names[array_index_nospec(state, ARRAY_SIZE(names))];
}

/* @addresses: show them, else 0. */
void fiber_show(struct seq_file *m, const struct fiber_snapshot *snapshot, bool addresses)
{
	bool running = snapshot->state == FIBER_STATE_RUNNING;
	u64 mask = addresses ? U64_MAX : 0;

	seq_printf(m, "Running: %s\n", running ? "yes" : "no");
	seq_printf(m, "Initial entry point: 0x%016llx\n", snapshot->entry & mask);
	seq_printf(m, "Parent thread id: %u\n", snapshot->parent);
	seq_printf(m, "Number of activations: %llu\n", snapshot->activations);
	seq_printf(m, "Number of failed activations: %llu\n", snapshot->failed);
	seq_printf(m, "Total execution time: %llu ms\n",
		   div_u64(snapshot->cpu_time, NSEC_PER_MSEC));
	seq_puts(m, "Name: ");
	show_name(m, snapshot->name);
	seq_putc(m, '\n');
	seq_printf(m, "State: %s\n", state_name(snapshot->state));
	seq_printf(m, "Thread id: %u\n", snapshot->thread);
	seq_printf(m, "CPU time ns: %llu\n", snapshot->cpu_time);
	seq_printf(m, "Longest run ns: %llu\n", snapshot->longest_run);
	seq_printf(m, "Last switch ns ago: %llu\n", snapshot->last_switch);
	seq_printf(m, "Saved instruction pointer: 0x%016llx\n", snapshot->ip & mask);
	seq_printf(m, "Saved stack pointer: 0x%016llx\n", snapshot->sp & mask);
	seq_printf(m, "Stack start: 0x%016llx\n", snapshot->stack_start & mask);
	seq_printf(m, "Stack size: %llu\n", snapshot->stack_size);
	seq_printf(m, "Engine: %s\n",
		   snapshot->engine == FIBER_ENGINE_MAPPED ? "mapped" : "kernel");
}
