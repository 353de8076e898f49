/* SPDX-License-Identifier: MIT */
/* A memory cgroup that is full: requests fail, or the process is killed, and nobody else is. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

#define CGROUPS	"/sys/fs/cgroup"
#define GROUP	CGROUPS "/kfiber-memory"
#define LIMIT	"8388608"
/* Their slots take more than that. */
#define MANY_SLOTS 60000

static void group_start(void)
{
	char controllers[256];

	if (geteuid())
		skip("only root makes cgroups");
	if (file_read(CGROUPS "/cgroup.controllers", controllers, sizeof(controllers)) ||
	    !strstr(controllers, "memory"))
		skip("no memory controller in " CGROUPS);
	CHECK_OK(file_write(CGROUPS "/cgroup.subtree_control", "+memory"));
	rmdir(GROUP);
	CHECK(mkdir(GROUP, 0755) == 0);
	CHECK_OK(file_write(GROUP "/memory.max", LIMIT));
	/* Where there is swap. */
	(void)file_write(GROUP "/memory.swap.max", "0");
}

static void group_end(void)
{
	WAIT_FOR(!rmdir(GROUP));
}

static void enter(bool may_be_killed)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	CHECK_OK(file_write(GROUP "/cgroup.procs", pid));
	if (!may_be_killed)
		CHECK_OK(file_write("/proc/self/oom_score_adj", "-1000"));
}

#define LENGTH FIBER_TABLE_SIZE(MANY_SLOTS)

static struct fiber_slot *slots;

static void table_start(void)
{
	char *table;

	device = device_open();
	table = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	CHECK(table != MAP_FAILED);
	slots = (void *)(table + FIBER_TABLE_SLOTS_AT);
}

/* What was there before stays, and there is no more than that. */
static void commits_too_much(void)
{
	enter(false);
	table_start();
	CHECK_OK(request(device, FIBER_IOC_COMMIT, 1000));
	for (unsigned int i = 0; i < 1000; i++)
		slots[i].id = i;
	for (int i = 0; i < 5; i++)
		CHECK_ERR(request(device, FIBER_IOC_COMMIT, MANY_SLOTS), ENOMEM);
	for (unsigned int i = 0; i < 1000; i++)
		CHECK_EQ(slots[i].id, i);
	CHECK(madvise((void *)((uintptr_t)&slots[MANY_SLOTS - 1] & ~4095UL), 4096,
		      MADV_POPULATE_WRITE) == -1);
	CHECK_ERR(request(device, FIBER_IOC_COMMIT, MANY_SLOTS), ENOMEM);
	CHECK_OK(request(device, FIBER_IOC_COMMIT, 1100));
	slots[1099].id = 1;
}

TEST(a_table_larger_than_the_cgroup)
{
	counters_wait_none();
	group_start();
	in_child(commits_too_much);
	counters_wait_none();
	group_end();
}

static void idle(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

static void creates_until_killed(void)
{
	struct fiber_create args = {
		.size = sizeof(args), .flags = FIBER_FLAG_FPU, .entry = (uintptr_t)idle,
		.stack_start = 65536, .stack_size = STACK_SIZE,
	};
	uint64_t id;

	enter(true);
	convert(0);
	while (!try_create(&args, &id))
		;
	_exit(3);
}

static void bystander(void)
{
	convert(0);
	create(idle, NULL, 0, "bystander");
}

TEST(the_one_who_fills_the_cgroup_is_killed)
{
	char value[PROC_LINE];
	pid_t pid;
	int status;

	counters_wait_none();
	group_start();
	pid = start_until_ready(bystander);
	status = child_status(creates_until_killed);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	CHECK(proc_line(pid, 2, "Name", value) && !strcmp(value, "bystander"));
	end(pid);
	counters_wait_none();
	group_end();
}
