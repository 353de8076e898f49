/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/module.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "fuse.h"
#include "harness.h"

#define FILE_SIZE	(1UL << 30)
#define FILE_NODE	2
#define FOR_EVER	100000	/* seconds for which the kernel believes what it was told */
#define REQUEST_MAX	(1UL << 20)
#define READS_MAX	4096

static struct {
	atomic_uint waiting;
	atomic_bool answer;
} *shared;

static int connection;

static void reply(uint64_t unique, int err, const void *data, size_t size)
{
	struct fuse_out_header header = {
		.len = (uint32_t)(sizeof(header) + size), .error = -err, .unique = unique,
	};
	struct iovec parts[] = { { &header, sizeof(header) }, { (void *)data, size } };

	/* A request whose process was killed is no more: ENOENT. */
	if (writev(connection, parts, 2) < 0 && errno != ENOENT)
		_exit(1);
}

static struct fuse_attr attributes(uint64_t node)
{
	return (struct fuse_attr) {
		.ino = node,
		.size = FILE_SIZE,
		.mode = node == FILE_NODE ? S_IFREG | 0666 : S_IFDIR | 0755,
		.nlink = 1,
	};
}

/* What the server owes an answer. */
static struct {
	uint64_t unique;
	uint32_t size;
} reads[READS_MAX];
static unsigned int reads_count;

static void answer_reads(void)
{
	static const char zeros[REQUEST_MAX];

	while (reads_count) {
		reads_count--;
		reply(reads[reads_count].unique, 0, zeros, reads[reads_count].size);
	}
}

static void serve_request(const struct fuse_in_header *in)
{
	const void *body = in + 1;

	switch (in->opcode) {
	case FUSE_INIT: {
		/*
		 * A page a read; and readers wait for the page and not for the read, so that
		 * they can be killed.
		 */
		struct fuse_init_out out = {
			.major = FUSE_KERNEL_VERSION, .minor = 31, .flags = FUSE_ASYNC_READ,
			.max_readahead = 4096,
			.max_background = UINT16_MAX, .congestion_threshold = UINT16_MAX,
			.max_write = 4096,
		};

		reply(in->unique, 0, &out, sizeof(out));
		break;
	}
	case FUSE_LOOKUP: {
		struct fuse_entry_out out = {
			.nodeid = FILE_NODE, .entry_valid = FOR_EVER, .attr_valid = FOR_EVER,
			.attr = attributes(FILE_NODE),
		};

		reply(in->unique, 0, &out, sizeof(out));
		break;
	}
	case FUSE_GETATTR: {
		struct fuse_attr_out out = {
			.attr_valid = FOR_EVER, .attr = attributes(in->nodeid),
		};

		reply(in->unique, 0, &out, sizeof(out));
		break;
	}
	case FUSE_OPEN: {
		struct fuse_open_out out = { .fh = 1 };

		reply(in->unique, 0, &out, sizeof(out));
		break;
	}
	case FUSE_READ:
		if (reads_count == READS_MAX)
			_exit(1);
		reads[reads_count].unique = in->unique;
		reads[reads_count].size = ((const struct fuse_read_in *)body)->size;
		reads_count++;
		atomic_fetch_add(&shared->waiting, 1);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(in->unique, ENOSYS, NULL, 0);
	}
}

__attribute__((noreturn)) static void serve(void)
{
	static char buffer[REQUEST_MAX];
	pid_t parent = getppid();

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	for (;;) {
		ssize_t size = read(connection, buffer, sizeof(buffer));

		if (size >= (ssize_t)sizeof(struct fuse_in_header))
			serve_request((void *)buffer);
		else if (errno == ENODEV)
			_exit(0);
		if (atomic_load(&shared->answer))
			answer_reads();
		if (size < 0 && errno == EAGAIN)
			pause_briefly();
	}
}

/* Where it is a module: nothing in the tests' machine loads it on demand. */
static void load_fuse(void)
{
	static const char *const suffixes[] = { "", ".xz", ".zst", ".gz" };
	struct utsname name;

	CHECK(uname(&name) == 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(suffixes); i++) {
		char path[256];
		int fd;

		snprintf(path, sizeof(path), "/lib/modules/%s/kernel/fs/fuse/fuse.ko%s",
			 name.release, suffixes[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		/* Fails where it is there already. */
		(void)syscall(SYS_finit_module, fd, "",
			      *suffixes[i] ? MODULE_INIT_COMPRESSED_FILE : 0);
		close(fd);
	}
}

int fuse_file(void)
{
	char directory[] = "/tmp/kfiber-fuse-XXXXXX", path[64], options[128];
	int fd;

	if (geteuid())
		skip("only root mounts a FUSE file system");
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	CHECK(shared != MAP_FAILED);
	connection = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (connection < 0)
		load_fuse();
	if (connection < 0)
		connection = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (connection < 0)
		skip("this kernel has no FUSE");
	/* The mount is this process's and its children's, and goes with them. */
	CHECK(unshare(CLONE_NEWNS) == 0);
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	CHECK(mkdtemp(directory));
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", connection);
	CHECK(mount("kfiber", directory, "fuse", MS_NOSUID | MS_NODEV, options) == 0);
	if (!fork())
		serve();
	/* So that the file system ends with its server. */
	close(connection);
	snprintf(path, sizeof(path), "%s/late", directory);
	fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

unsigned int fuse_waiting(void)
{
	return atomic_load(&shared->waiting);
}

void fuse_answer(void)
{
	atomic_store(&shared->answer, true);
}
