/* SPDX-License-Identifier: MIT */
/*
 * Numbers that come again: a process has the pid of a dead one, or the one that another process
 * has in another PID namespace. Nobody takes one for the other, or learns of it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/sched.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

#define FIBERS 4

static void idle(void *arg)
{
	(void)arg;
}

static void some_fibers(void)
{
	convert(0);
	for (int i = 2; i <= FIBERS; i++)
		create(idle, NULL, 0, NULL);
}

/* clone3() with the pid that the child is to have, as the restorer of a checkpoint does. */
static pid_t start_as(pid_t pid, void (*run)(void))
{
	struct clone_args args = {
		.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1,
	};
	int ready[2];
	char byte;
	long result;

	CHECK(pipe(ready) == 0);
	result = syscall(SYS_clone3, &args, sizeof(args));
	if (!result) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Not what the C library believes, which has not seen this. */
		if (syscall(SYS_getpid) != pid)
			_exit(1);
		run();
		CHECK(write(ready[1], "x", 1) == 1);
		for (;;)
			pause();
	}
	if (result < 0 && (errno == ENOSYS || errno == EPERM))
		skip("this kernel gives no pid that was chosen: %s", strerror(errno));
	CHECK(result == pid);
	close(ready[1]);
	CHECK(read(ready[0], &byte, 1) == 1);
	close(ready[0]);
	return pid;
}

static bool lists_fiber(int folder)
{
	int copy = dup(folder);
	DIR *directory = fdopendir(copy);
	struct dirent *entry;
	bool found = false;

	CHECK(directory);
	rewinddir(directory);
	while ((entry = readdir(directory)))
		found |= !strcmp(entry->d_name, "fiber");
	closedir(directory);
	return found;
}

TEST(directories_of_the_dead_know_no_namesakes)
{
	int process, fibers, file;
	char path[48];
	struct stat status;
	pid_t pid;

	counters_wait_none();
	pid = start_until_ready(some_fibers);
	snprintf(path, sizeof(path), "/proc/%d", pid);
	process = open(path, O_RDONLY | O_DIRECTORY);
	CHECK(process >= 0);
	CHECK(lists_fiber(process));
	fibers = openat(process, "fiber", O_RDONLY | O_DIRECTORY);
	file = openat(process, "fiber/1", O_RDONLY);
	CHECK(fibers >= 0 && file >= 0);
	end(pid);
	WAIT_FOR(!lists_fiber(process));

	CHECK(start_as(pid, some_fibers) == pid);
	strcat(path, "/fiber");
	CHECK(access(path, F_OK) == 0);
	/* The new one is there, and the old directory is still nobody's. */
	CHECK(!lists_fiber(process));
	CHECK(fstatat(process, "fiber", &status, 0) == -1);
	CHECK(openat(process, "fiber/1", O_RDONLY) == -1);
	CHECK(fstatat(fibers, "1", &status, 0) == -1);
	CHECK(read(file, path, sizeof(path)) <= 0);
	end(pid);
	close(process);
	close(fibers);
	close(file);
	counters_wait_none();
}

static void fibers_then_another_program(void)
{
	some_fibers();
	execl("/bin/sleep", "sleep", "1000", (char *)NULL);
	_exit(1);
}

/* The same process, but another image: its directory lists no fibers either. */
TEST(directories_outlive_an_image)
{
	char path[48], name[32] = "";
	int process;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid)
		fibers_then_another_program();
	snprintf(path, sizeof(path), "/proc/%d", pid);
	process = open(path, O_RDONLY | O_DIRECTORY);
	CHECK(process >= 0);
	strcat(path, "/comm");
	WAIT_FOR(!file_read(path, name, sizeof(name)) && !strcmp(name, "sleep"));
	WAIT_FOR(!lists_fiber(process));
	end(pid);
	counters_wait_none();
}

/* PID namespaces */

static struct {
	pid_t pid;
	uint64_t folder, files[FIBERS];
} *seen;

static int look_inside(void *arg)
{
	char path[48];
	struct stat status;
	unsigned int place = (unsigned int)(uintptr_t)arg;

	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	CHECK(mount("proc", "/proc", "proc", 0, NULL) == 0);
	some_fibers();
	seen[place].pid = getpid();
	CHECK(stat("/proc/self/fiber", &status) == 0);
	seen[place].folder = status.st_ino;
	for (unsigned int i = 0; i < FIBERS; i++) {
		snprintf(path, sizeof(path), "/proc/self/fiber/%u", i + 1);
		CHECK(stat(path, &status) == 0);
		seen[place].files[i] = status.st_ino;
	}
	return 0;
}

/* A process that has the pid 1 wherever it is looked at from inside. */
static void look_in_a_namespace(unsigned int place)
{
	char *stack = stack_new(STACK_SIZE);
	int status;
	pid_t pid = clone(look_inside, stack + STACK_SIZE, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD,
			  (void *)(uintptr_t)place);

	if (pid < 0)
		skip("this kernel gives no PID namespace: %s", strerror(errno));
	CHECK(waitpid(pid, &status, 0) == pid && !status);
}

/* Else an inode's number would tell a container's process its pid outside. */
TEST(numbers_of_inodes_are_the_same_in_every_namespace)
{
	seen = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(seen != MAP_FAILED);
	look_in_a_namespace(0);
	look_in_a_namespace(1);
	CHECK_EQ((unsigned int)seen[0].pid, 1);
	CHECK_EQ((unsigned int)seen[1].pid, 1);
	CHECK_EQ(seen[0].folder, seen[1].folder);
	for (unsigned int i = 0; i < FIBERS; i++) {
		CHECK_EQ(seen[0].files[i], seen[1].files[i]);
		CHECK(seen[0].files[i] != seen[0].folder);
		for (unsigned int j = 0; j < i; j++)
			CHECK(seen[0].files[i] != seen[0].files[j]);
	}
	counters_wait_none();
}
