/* SPDX-License-Identifier: MIT */
/*
 * Who a descriptor serves: the process image that opened it.
 *
 *	fork, a socket, execve	another mm, or another program: EPERM
 *	vfork, clone(CLONE_VM)	the same mm but another thread group: EPERM
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

static void count_up(void *arg)
{
	uint64_t *count = arg;

	for (;;) {
		++*count;
		CHECK_OK(fiber_switch(1));
	}
}

/* The outputs are poisoned, and stay so. */
static void check_foreign(int fd)
{
	struct fiber_convert convert_args = { .size = sizeof(convert_args), .id = POISON };
	struct fiber_create create_args = {
		.size = sizeof(create_args),
		.entry = (uintptr_t)count_up,
		.stack_start = 65536,
		.stack_size = STACK_SIZE,
		.id = POISON,
	};
	struct fiber_name name_args = { .size = sizeof(name_args), .id = 1, .name = "stranger" };
	struct fiber_fls fls_args = { .size = sizeof(fls_args), .index = 0, .value = POISON };
	struct fiber_snapshot snapshot = { .size = sizeof(snapshot), .state = 77 };
	uint64_t value = POISON;

	CHECK_EQ((uint64_t)request(fd, FIBER_IOC_VERSION, 0), FIBER_ABI_VERSION);
	CHECK_ERR(request(fd, FIBER_IOC_CONVERT, (unsigned long)&convert_args), EPERM);
	CHECK_EQ(convert_args.id, POISON);
	CHECK_ERR(request(fd, FIBER_IOC_CREATE, (unsigned long)&create_args), EPERM);
	CHECK_EQ(create_args.id, POISON);
	CHECK_ERR(request(fd, FIBER_IOC_SWITCH, 1), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_SWITCH, 2), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_DELETE, 2), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_REVERT, 0), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_RETIRE, 0), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_SET_NAME, (unsigned long)&name_args), EPERM);
	name_args.id = 0;
	CHECK_ERR(request(fd, FIBER_IOC_SET_NAME, (unsigned long)&name_args), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_SELF, (unsigned long)&value), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_FLS_ALLOC, (unsigned long)&value), EPERM);
	CHECK_EQ(value, POISON);
	CHECK_ERR(request(fd, FIBER_IOC_FLS_FREE, 0), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_FLS_SET, (unsigned long)&fls_args), EPERM);
	CHECK_ERR(request(fd, FIBER_IOC_FLS_GET, (unsigned long)&fls_args), EPERM);
	CHECK_EQ(fls_args.value, POISON);
	CHECK_ERR(request(fd, FIBER_IOC_STAT, (unsigned long)&snapshot), EPERM);
	snapshot.id = 2;
	CHECK_ERR(request(fd, FIBER_IOC_STAT, (unsigned long)&snapshot), EPERM);
	CHECK_EQ(snapshot.state, 77);
}

static uint64_t count, worker;

/* A fiber with a slot of storage and a worker, in the calling process. */
static void family_start(void)
{
	uint64_t index;

	CHECK_EQ(convert(0), 1);
	CHECK_OK(fls_alloc(&index));
	CHECK_OK(fls_set(index, POISON));
	worker = create(count_up, &count, 0, "worker");
	CHECK_OK(fiber_switch(worker));
}

/* Nothing has happened to it. */
static void family_check(void)
{
	uint64_t value, before = count;

	CHECK_EQ(self(), 1);
	CHECK_OK(fls_get(0, &value));
	CHECK_EQ(value, POISON);
	CHECK(proc_is(1, "Name", ""));
	CHECK(proc_is(worker, "Name", "worker"));
	CHECK_OK(fiber_switch(worker));
	CHECK_EQ(count, before + 1);
}

static void child_with_inherited_descriptor(void)
{
	check_foreign(device);
}

TEST(fork_child_may_not_use_an_inherited_descriptor)
{
	family_start();
	in_child(child_with_inherited_descriptor);
	family_check();
}

static void child_with_both(void)
{
	int inherited = device;

	CHECK(access("/proc/self/fiber", F_OK) == -1 && errno == ENOENT);
	device = device_open();
	CHECK(access("/proc/self/fiber", F_OK) == -1 && errno == ENOENT);
	CHECK_EQ(convert(0), 1);
	check_foreign(inherited);
	CHECK_EQ(self(), 1);
	/* The parent's worker is not here. */
	CHECK_ERR(fiber_switch(worker), ESRCH);
}

TEST(fork_child_has_fibers_of_its_own)
{
	family_start();
	in_child(child_with_both);
	family_check();
}

static void child_forked_inside(void *arg)
{
	pid_t pid = fork();

	(void)arg;
	CHECK(pid >= 0);
	if (!pid) {
		check_foreign(device);
		_exit(0);
	}
	child_join(pid);
	CHECK_OK(fiber_switch(1));
}

TEST(fork_inside_a_created_fiber)
{
	family_start();
	CHECK_OK(fiber_switch(create(child_forked_inside, NULL, 0, NULL)));
	family_check();
}

static int sockets[2];

static void receive_and_check(void)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd;

	CHECK(recvmsg(sockets[1], &message, 0) == 1);
	CHECK(CMSG_FIRSTHDR(&message));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	check_foreign(fd);
	/* Not even beside one of its own. */
	convert(0);
	check_foreign(fd);
	CHECK_EQ(self(), 1);
}

static void send_descriptor(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	CHECK(sendmsg(socket, &message, 0) == 1);
}

TEST(sent_descriptor_is_useless)
{
	pid_t pid;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		receive_and_check();
		_exit(0);
	}
	family_start();
	send_descriptor(sockets[0], device);
	child_join(pid);
	family_check();
}

/*
 * Shares our memory, as after vfork(), but with a stack of its own, so that it
 * may do what a child of vfork() may not.
 */
static void in_vm_sharing_child(int (*run)(void *))
{
	char *stack = stack_new(STACK_SIZE);
	int status;
	pid_t pid;

	pid = clone(run, stack + STACK_SIZE, CLONE_VM | SIGCHLD, NULL);
	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(status == 0);
}

static int vm_sharing_foreign(void *arg)
{
	(void)arg;
	check_foreign(device);
	return 0;
}

TEST(child_that_shares_the_memory_is_foreign)
{
	family_start();
	in_vm_sharing_child(vm_sharing_foreign);
	family_check();
}

static int vm_sharing_own(void *arg)
{
	struct fiber_convert args = { .size = sizeof(args), .id = POISON };
	int own = device_open();

	(void)arg;
	CHECK_OK(request(own, FIBER_IOC_CONVERT, (unsigned long)&args));
	CHECK_EQ(args.id, 1);
	check_foreign(device);
	/* Ids of the process that it shares the memory with mean nothing here. */
	CHECK_ERR(request(own, FIBER_IOC_SWITCH, worker), ESRCH);
	return 0;
}

TEST(child_that_shares_the_memory_has_fibers_of_its_own)
{
	family_start();
	in_vm_sharing_child(vm_sharing_own);
	family_check();
}

TEST(vfork_child_is_foreign)
{
	volatile long result;
	pid_t pid;

	family_start();
	pid = vfork();
	if (!pid) {
		result = request(device, FIBER_IOC_SWITCH, worker);
		_exit(0);
	}
	CHECK(pid > 0);
	CHECK_ERR(result, EPERM);
	CHECK_EQ(count, 1);
	child_join(pid);
	family_check();
}

/* Runs another case of this program in this process's place. */
__attribute__((noreturn)) static void exec_case(const char *name)
{
	execl("/proc/self/exe", "identity", name, (char *)NULL);
	check_failed(__FILE__, __LINE__, "cannot execute %s", name);
}

#define FD_VARIABLE "KFIBER_TEST_FD"

/* Tells the next image which descriptor this one has. */
static void tell_descriptor(void)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", device);
	CHECK(setenv(FD_VARIABLE, number, 1) == 0);
}

/* ... and lets it inherit that. */
static void hand_down(void)
{
	CHECK(fcntl(device, F_SETFD, 0) == 0);
	tell_descriptor();
}

/* Runs by itself too: then there is no descriptor of an earlier image. */
TEST(new_image_begins_anew)
{
	const char *number = getenv(FD_VARIABLE);

	CHECK(access("/proc/self/fiber", F_OK) == -1 && errno == ENOENT);
	if (number)
		check_foreign(atoi(number));
	CHECK_EQ(convert(0), 1);
	CHECK_ERR(fiber_switch(2), ESRCH);
	if (number)
		check_foreign(atoi(number));
	CHECK_EQ(self(), 1);
	if (number) {
		close(atoi(number));
		/* Nothing is left of the image that opened it. */
		counters_wait((struct counters) { 1, 1, 1 });
	}
}

TEST(descriptor_kept_over_execve)
{
	counters_wait_none();
	family_start();
	hand_down();
	exec_case("new_image_begins_anew");
}

static void exec_inside(void *arg)
{
	(void)arg;
	hand_down();
	exec_case("new_image_begins_anew");
}

TEST(execve_from_a_created_fiber)
{
	counters_wait_none();
	convert(0);
	CHECK_OK(fiber_switch(create(exec_inside, NULL, 0, NULL)));
	check_failed(__FILE__, __LINE__, "execve() returned");
}

static void *exec_thread(void *arg)
{
	convert(0);
	CHECK_OK(fiber_switch(*(uint64_t *)arg));
	return NULL;
}

/* The thread takes over the process's id; the other threads are killed. */
TEST(execve_from_another_thread)
{
	uint64_t id;

	counters_wait_none();
	convert(0);
	id = create(exec_inside, NULL, 0, NULL);
	thread_join(thread_start(exec_thread, &id));
	check_failed(__FILE__, __LINE__, "execve() returned");
}

/* Needs no descriptor afterwards: after execve() no fiber is left. */
TEST(new_image_without_descriptor)
{
	if (getenv(FD_VARIABLE)) {
		CHECK(fcntl(atoi(getenv(FD_VARIABLE)), F_GETFD) == -1 && errno == EBADF);
		counters_wait_none();
	}
}

TEST(close_on_exec_leaves_nothing)
{
	counters_wait_none();
	family_start();
	CHECK(fcntl(device, F_GETFD) == FD_CLOEXEC);
	tell_descriptor();
	exec_case("new_image_without_descriptor");
}

static void failing_exec(void)
{
	family_start();
	CHECK(execl("/nonexistent/program", "program", (char *)NULL) == -1);
	CHECK(errno == ENOENT);
	family_check();
}

TEST(failed_execve_changes_nothing)
{
	failing_exec();
}

static uint64_t spinner_other;

static void spinner_partner(void *arg)
{
	uint64_t *home = arg;

	for (;;)
		CHECK_OK(fiber_switch(*home));
}

static void *spinner(void *arg)
{
	static uint64_t home;

	(void)arg;
	home = convert(0);
	spinner_other = create(spinner_partner, &home, FIBER_FLAG_FPU, NULL);
	for (;;)
		CHECK_OK(fiber_switch(spinner_other));
	return NULL;
}

TEST(execve_while_another_thread_switches)
{
	counters_wait_none();
	convert(0);
	create(count_up, &count, 0, NULL);
	thread_start(spinner, NULL);
	WAIT_FOR(proc_exists(4) && proc_number(4, "Number of activations") > 100);
	exec_case("new_image_without_descriptor");
}

TEST(exit_of_a_fork_child_leaves_the_parent_alone)
{
	struct counters before;

	counters_wait_none();
	family_start();
	before = counters_read();
	for (int i = 0; i < 20; i++)
		in_child(child_with_both);
	counters_wait(before);
	family_check();
}
