// SPDX-License-Identifier: GPL-2.0-only
/*
 * The text of a fiber in /proc, from a snapshot: the six lines of the reference
 * report first, then ours. Keys are only ever appended.
 */
#include <linux/kernel.h>
#include <linux/math64.h>
#include <linux/nospec.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/string_helpers.h>
#include <linux/time64.h>

#include <fiber.h>

#include "show.h"

/* All characters that could end the line or drive a terminal, and the escape itself. */
#define ESCAPED	"\001\002\003\004\005\006\007\010\011\012\013\014\015\016\017\020" \
		"\021\022\023\024\025\026\027\030\031\032\033\034\035\036\037\177\\"

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
	seq_escape_mem(m, snapshot->name, strlen(snapshot->name), ESCAPE_OCTAL, ESCAPED);
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
