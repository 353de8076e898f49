/* SPDX-License-Identifier: MIT */
/*
 * Who sees addresses in /proc/PID/fiber/ID: exactly those who can read /proc/PID/maps, however the
 * kernel came to that: users, capabilities, dumpability, Landlock, Yama, namespaces.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

static const char *const addresses[] = {
	"Initial entry point", "Saved instruction pointer", "Saved stack pointer", "Stack start",
};

static void bounce(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

/* Fiber 2 has all four addresses. */
static void family_start(void)
{
	CHECK_EQ(convert(0), 1);
	CHECK_EQ(create(bounce, NULL, 0, "seen"), 2);
	CHECK_OK(fiber_switch(2));
}

static bool reads_maps(pid_t pid)
{
	char path[48], byte;
	bool read_it;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	read_it = read(fd, &byte, 1) == 1;
	close(fd);
	return read_it;
}

/* Of all or of none. */
static bool sees_addresses(pid_t pid)
{
	unsigned int seen = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(addresses); i++) {
		char value[PROC_LINE];

		CHECK(proc_line(pid, 2, addresses[i], value));
		seen += strtoull(value, NULL, 0) != 0;
	}
	CHECK(seen == 0 || seen == ARRAY_SIZE(addresses));
	return seen;
}

/* What everybody sees stays as it is, whoever looks. */
static bool check_sight(pid_t pid)
{
	char value[PROC_LINE];
	bool seen = sees_addresses(pid);

	CHECK_EQ(seen, reads_maps(pid));
	CHECK(proc_line(pid, 2, "Name", value) && !strcmp(value, "seen"));
	CHECK(proc_line(pid, 2, "Number of activations", value) && !strcmp(value, "1"));
	return seen;
}

static void target_of_a(void)
{
	become(USER_A);
	family_start();
}

static void target_not_dumpable(void)
{
	target_of_a();
	CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
}

static pid_t target;

static void look_as_a(void)
{
	become(USER_A);
	CHECK(check_sight(target));
}

static void look_as_b(void)
{
	become(USER_B);
	CHECK(!check_sight(target));
}

static void look_as_a_in_vain(void)
{
	become(USER_A);
	CHECK(!check_sight(target));
}

TEST(users)
{
	target = start_until_ready(target_of_a);
	CHECK(check_sight(target));
	in_child(look_as_a);
	in_child(look_as_b);
	end(target);
}

TEST(processes_that_are_not_dumpable)
{
	target = start_until_ready(target_not_dumpable);
	CHECK(check_sight(target));
	in_child(look_as_a_in_vain);
	in_child(look_as_b);
	end(target);
}

/* Landlock */

static void enter_landlock(void)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE };
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (ruleset < 0)
		skip("this kernel has no Landlock: %s", strerror(errno));
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(syscall(SYS_landlock_restrict_self, ruleset, 0) == 0);
	close(ruleset);
}

static void look_from_a_domain(void)
{
	become(USER_A);
	CHECK(check_sight(target));
	enter_landlock();
	CHECK(!check_sight(target));
	/* Its own are its own. */
	family_start();
	CHECK(check_sight(getpid()));
}

TEST(landlock_domain_of_the_reader)
{
	target = start_until_ready(target_of_a);
	in_child(look_from_a_domain);
	end(target);
}

#ifndef CAP_PERFMON
#define CAP_PERFMON 38
#endif

/*
 * From Linux 6.15 on CAP_PERFMON, or CAP_SYS_ADMIN in its place, reads every /proc/PID/maps,
 * whatever security modules say.
 */
static void give_up_perfmon(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];

	CHECK(syscall(SYS_capget, &header, sets) == 0);
	sets[0].effective &= ~(1U << CAP_SYS_ADMIN);
	sets[1].effective &= ~(1U << (CAP_PERFMON - 32));
	CHECK(syscall(SYS_capset, &header, sets) == 0);
}

static void look_from_roots_domain(void)
{
	enter_landlock();
	check_sight(target);
	give_up_perfmon();
	CHECK(!check_sight(target));
}

/* Root gives up as much. */
TEST(landlock_domain_of_root)
{
	target = start_until_ready(target_of_a);
	in_child(look_from_roots_domain);
	end(target);
}

static void target_in_a_domain(void)
{
	become(USER_A);
	enter_landlock();
	family_start();
}

TEST(landlock_domain_of_the_target)
{
	target = start_until_ready(target_in_a_domain);
	CHECK(check_sight(target));
	in_child(look_as_a);
	end(target);
}

static void look_within_a_domain(void)
{
	become(USER_A);
	enter_landlock();
	target = start_until_ready(family_start);
	CHECK(check_sight(target));
	enter_landlock();
	CHECK(!check_sight(target));
	end(target);
}

TEST(landlock_domain_of_both)
{
	in_child(look_within_a_domain);
}

/* A descriptor is passed on: the eyes are those of whoever opened it, or of nobody. */
static void opened_before(void)
{
	char path[48], text[4096];
	ssize_t size;
	int fd;

	become(USER_A);
	enter_landlock();
	snprintf(path, sizeof(path), "/proc/%d/fiber/2", target);
	fd = open(path, O_RDONLY);
	CHECK(fd >= 0);
	size = pread(fd, text, sizeof(text) - 1, 0);
	CHECK(size > 0);
	text[size] = '\0';
	CHECK(strstr(text, "Stack start: 0x0000000000000000\n"));
}

TEST(opened_from_a_domain)
{
	target = start_until_ready(target_of_a);
	in_child(opened_before);
	end(target);
}

/* Yama */

#define YAMA "/proc/sys/kernel/yama/ptrace_scope"

TEST(yama)
{
	char before[64];

	if (geteuid())
		skip("only root sets " YAMA);
	if (file_read(YAMA, before, sizeof(before)))
		skip("this kernel has no Yama");
	target = start_until_ready(target_of_a);
	/* 3 can never be taken back. */
	for (char scope = '0'; scope <= '2'; scope++) {
		CHECK_OK(file_write(YAMA, (char []) { scope, '\0' }));
		CHECK(check_sight(target));
		in_child(look_as_a);
		in_child(look_as_b);
	}
	CHECK_OK(file_write(YAMA, before));
	end(target);
}

/* User namespaces */

static void look_from_a_namespace(void)
{
	become(USER_A);
	if (unshare(CLONE_NEWUSER))
		skip("this kernel gives users no namespaces: %s", strerror(errno));
	check_sight(target);
}

TEST(namespaces_of_the_reader)
{
	target = start_until_ready(target_of_a);
	in_child(look_from_a_namespace);
	end(target);
}

static void target_in_a_namespace(void)
{
	become(USER_A);
	if (unshare(CLONE_NEWUSER))
		skip("this kernel gives users no namespaces: %s", strerror(errno));
	family_start();
}

static void look_as_a_either_way(void)
{
	become(USER_A);
	check_sight(target);
}

TEST(namespaces_of_the_target)
{
	target = start_until_ready(target_in_a_namespace);
	CHECK(check_sight(target));
	in_child(look_as_a_either_way);
	in_child(look_as_b);
	end(target);
}

/* AppArmor: a profile that allows all but to look at others. */

#define APPARMOR "/sys/kernel/security/apparmor/"

TEST(apparmor)
{
	char path[64], value[64];

	if (file_read("/sys/module/apparmor/parameters/enabled", value, sizeof(value)) ||
	    *value != 'Y')
		skip("this kernel runs without AppArmor");
	snprintf(path, sizeof(path), APPARMOR ".load");
	if (access(path, W_OK))
		skip("no %s: securityfs is not mounted", path);
	if (system("command -v apparmor_parser >/dev/null 2>&1"))
		skip("no apparmor_parser to load a profile; apt-get install apparmor");
	target = start_until_ready(target_of_a);
	CHECK(!system("echo 'profile kfiber_blind { file, capability, signal, unix, }' |"
		      " apparmor_parser -r -K"));
	in_child(look_as_a);
	CHECK_OK(file_write("/proc/self/attr/exec", "exec kfiber_blind"));
	CHECK(setenv("KFIBER_TEST_TARGET", (snprintf(value, sizeof(value), "%d", target), value),
		     1) == 0);
	execl("/proc/self/exe", "sight", "confined", (char *)NULL);
	check_failed(__FILE__, __LINE__, "cannot execute myself: %s", strerror(errno));
}

/*
 * Runs in the profile above. As the target's user, whom nothing else forbids it: root may open
 * maps by CAP_PERFMON, whatever AppArmor says (Linux 6.15 and later).
 */
TEST(confined)
{
	const char *pid = getenv("KFIBER_TEST_TARGET");

	if (!pid)
		skip("the case apparmor runs this");
	target = atoi(pid);
	in_child(look_as_a_in_vain);
	kill(target, SIGKILL);
}
