/* SPDX-License-Identifier: MIT */
/* What is drawn: all from one number, and nothing of it from how things went. */
#include <errno.h>
#include <stdio.h>

#include "fuzz.h"

const struct kind_of_step kinds[KINDS] = {
	[VERSION] = { "VERSION", 100, FIBER_IOC_VERSION, { 0 } },
	[CONVERT] = { "CONVERT", 500, FIBER_IOC_CONVERT,
		      { EEXIST, EFAULT, EINVAL, E2BIG, EAGAIN, EOPNOTSUPP, ENOMEM, EDQUOT } },
	[CREATE] = { "CREATE", 1400, FIBER_IOC_CREATE, 
		    { EFAULT, EINVAL, E2BIG, EAGAIN, ENOMEM, EDQUOT } },
	[SWITCH] = { "SWITCH", 4000, FIBER_IOC_SWITCH,
		     { ESRCH, EINVAL, EBUSY, EOWNERDEAD, EOPNOTSUPP } },
	[DELETE] = { "DELETE", 300, FIBER_IOC_DELETE, { ESRCH, EBUSY } },
	[REVERT] = { "REVERT", 100, FIBER_IOC_REVERT, { EINVAL } },
	[RETIRE] = { "RETIRE", 60, FIBER_IOC_RETIRE, { EINVAL, EINTR } },
	[SET_NAME] = { "SET_NAME", 400, FIBER_IOC_SET_NAME, { EFAULT, EINVAL, E2BIG, ESRCH } },
	[SELF] = { "SELF", 400, FIBER_IOC_SELF, { EFAULT } },
	[STAT] = { "STAT", 500, FIBER_IOC_STAT, { EFAULT, EINVAL, E2BIG, ESRCH } },
	[FLS_ALLOC] = { "FLS_ALLOC", 500, FIBER_IOC_FLS_ALLOC,
			{ EFAULT, EAGAIN, ENOMEM, EDQUOT } },
	[FLS_FREE] = { "FLS_FREE", 150, FIBER_IOC_FLS_FREE, { EINVAL } },
	[FLS_SET] = { "FLS_SET", 500, FIBER_IOC_FLS_SET, { EFAULT, EINVAL, E2BIG } },
	[FLS_GET] = { "FLS_GET", 500, FIBER_IOC_FLS_GET, { EFAULT, EINVAL, E2BIG } },
	[UNKNOWN] = { "UNKNOWN", 400, 0, { ENOTTY } },
	[FLS_FILL] = { .name = "fls_fill", .weight = 1 },
	[OPEN] = { .name = "open", .weight = 60 },
	[CLOSE] = { .name = "close", .weight = 60 },
	[DUP] = { .name = "dup", .weight = 60 },
	[PROC] = { .name = "proc", .weight = 700 },
	[REMAP] = { .name = "remap", .weight = 40 },
	[UNMAP] = { .name = "unmap", .weight = 8 },
	[FORK] = { .name = "fork", .weight = 15 },
	[VFORK] = { .name = "vfork", .weight = 10 },
	[KIN] = { .name = "kin", .weight = 10 },
	[KILL] = { .name = "kill", .weight = 20 },
	[SIGNAL] = { .name = "signal", .weight = 80 },
	[MASK] = { .name = "mask", .weight = 100 },
	[VECTORS] = { .name = "vectors", .weight = 200 },
	[AFFINITY] = { .name = "affinity", .weight = 30 },
	[PRCTL] = { .name = "prctl", .weight = 20 },
	[YIELD] = { .name = "yield", .weight = 200 },
	[EXIT] = { .name = "exit", .weight = 10 },
};

uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
	return value ^ value >> 31;
}

uint64_t random_next(uint64_t *state)
{
	return mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}

uint64_t stream(uint64_t seed, uint64_t process, uint64_t round, uint64_t thread)
{
	return mix(mix(mix(mix(seed) + process) + round) + thread);
}

struct step step_draw(uint64_t *random)
{
	static unsigned int total;
	unsigned int sum = 0, left;
	struct step step;
	int kind = 0;

	if (!total) {
		for (int i = 0; i < KINDS; i++)
			sum += kinds[i].weight;
		total = sum;
	}
	for (left = random_next(random) % total; left >= kinds[kind].weight; kind++)
		left -= kinds[kind].weight;
	step.kind = kind;
	step.a = random_next(random);
	step.b = random_next(random);
	step.c = random_next(random);
	return step;
}

struct step step_of_thread(uint64_t *random, bool first)
{
	struct step step = step_draw(random);

	if (first && step.a % 8) {
		step.kind = CONVERT;
		step.b = step.c = 0;
	}
	return step;
}

/* The first steps of each thread of the first rounds. */
void print_plan(int processes, int threads, uint64_t seed)
{
	for (int process = 0; process < processes; process++)
		for (uint64_t round = 0; round < 2; round++)
			for (int thread = 0; thread < threads; thread++) {
				uint64_t random = stream(seed, (unsigned int)process, round,
							 (unsigned int)thread);

				for (int i = 0; i < 20; i++) {
					struct step step = step_of_thread(&random, !i);

					printf("%d %d %d %s %llx %llx %llx\n", process, (int)round,
					       thread, kinds[step.kind].name,
					       (unsigned long long)step.a, (unsigned long long)step.b,
					       (unsigned long long)step.c);
				}
			}
}

