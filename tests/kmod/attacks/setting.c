/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

#define PARAMETERS "/sys/module/fiber/parameters/"

void become(uid_t user)
{
	if (geteuid())
		skip("only root becomes another user");
	CHECK(setgroups(0, NULL) == 0);
	CHECK(setresgid(user, user, user) == 0 && setresuid(user, user, user) == 0);
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
	/* A child that has another user would outlive a test that failed. */
	CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
}

long file_read(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;
	long err = 0;

	if (fd < 0)
		return -errno;
	length = read(fd, text, size - 1);
	if (length < 0)
		err = -errno;
	close(fd);
	text[length > 0 ? length : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return err;
}

long file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	long err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

#define PROCESSORS_MAX 64

long file_write_alone(const char *path, const char *text, int flags)
{
	bool taken[PROCESSORS_MAX] = { false };
	char online[64], state[8];
	long err = 0;
	int fd;

	for (int i = 1; i < PROCESSORS_MAX; i++) {
		snprintf(online, sizeof(online), "/sys/devices/system/cpu/cpu%d/online", i);
		if (!file_read(online, state, sizeof(state)) && *state == '1')
			taken[i] = !file_write(online, "0");
	}
	fd = open(path, O_WRONLY | O_CLOEXEC | flags);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	for (int i = 1; i < PROCESSORS_MAX; i++) {
		snprintf(online, sizeof(online), "/sys/devices/system/cpu/cpu%d/online", i);
		if (taken[i])
			CHECK_OK(file_write(online, "1"));
	}
	return err;
}

void run_with(const char *name, const char *value, void (*run)(void))
{
	char path[96], before[64];
	int status;

	if (geteuid())
		skip("only root sets parameters of the module");
	snprintf(path, sizeof(path), PARAMETERS "%s", name);
	counters_wait_none();
	CHECK_OK(file_read(path, before, sizeof(before)));
	CHECK_OK(file_write(path, value));
	status = child_status(run);
	CHECK_OK(file_write(path, before));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		_exit(77);
	CHECK_EQ((unsigned int)status, 0);
	counters_wait_none();
}

pid_t start_until_ready(void (*run)(void))
{
	int ready[2];
	char byte;
	pid_t pid;

	CHECK(pipe(ready) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		close(ready[0]);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		run();
		CHECK(write(ready[1], "x", 1) == 1);
		close(ready[1]);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1) {
		int status;

		CHECK(waitpid(pid, &status, 0) == pid);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
			_exit(77);
		check_failed(__FILE__, __LINE__, "the child ended with status 0x%x", status);
	}
	close(ready[0]);
	return pid;
}

void end(pid_t pid)
{
	CHECK(kill(pid, SIGKILL) == 0);
	CHECK(waitpid(pid, NULL, 0) == pid);
}
