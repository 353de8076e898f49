/* SPDX-License-Identifier: MIT */
/* What a hostile or confused caller sends: each request, each field. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "harness.h"

static const unsigned long all_requests[] = {
	FIBER_IOC_VERSION, FIBER_IOC_CONVERT, FIBER_IOC_CREATE, FIBER_IOC_SWITCH,
	FIBER_IOC_DELETE, FIBER_IOC_REVERT, FIBER_IOC_RETIRE, FIBER_IOC_SET_NAME,
	FIBER_IOC_SELF, FIBER_IOC_FLS_ALLOC, FIBER_IOC_FLS_FREE, FIBER_IOC_FLS_SET,
	FIBER_IOC_FLS_GET, FIBER_IOC_COMMIT, FIBER_IOC_ATTACH, FIBER_IOC_DETACH,
};

static bool is_request(unsigned long cmd)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(all_requests); i++)
		if (all_requests[i] == cmd)
			return true;
	return false;
}

TEST(requests_differ)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(all_requests); i++)
		for (unsigned int j = 0; j < i; j++)
			CHECK(all_requests[i] != all_requests[j]);
}

/* What the ABI promises, so that nobody changes it by accident. */
TEST(structures_have_their_published_layout)
{
	CHECK_EQ(sizeof(struct fiber_convert), 16);
	CHECK_EQ(offsetof(struct fiber_convert, id), 8);
	CHECK_EQ(sizeof(struct fiber_create), 112);
	CHECK_EQ(offsetof(struct fiber_create, name), 40);
	CHECK_EQ(offsetof(struct fiber_create, id), 104);
	CHECK_EQ(sizeof(struct fiber_name), 72);
	CHECK_EQ(sizeof(struct fiber_fls), 16);
	CHECK_EQ(FIBER_IOC_CONVERT, 0xc010fb01);
	CHECK_EQ(FIBER_IOC_CREATE, 0xc070fb02);
	CHECK_EQ(FIBER_IOC_SWITCH, 0xfb03);
	CHECK_EQ(FIBER_IOC_SET_NAME, 0x4048fb07);
	CHECK_EQ(FIBER_IOC_FLS_GET, 0xc010fb13);
	CHECK_EQ(FIBER_IOC_ATTACH, 0xfb21);
	CHECK_EQ(sizeof(struct fiber_table), 88);
	CHECK_EQ(sizeof(struct fiber_slot), 192);
	CHECK_EQ(offsetof(struct fiber_slot, state), 56);
	CHECK_EQ(offsetof(struct fiber_slot, name), 128);
	CHECK_EQ(sizeof(struct fiber_area), 64);
	CHECK_EQ(FIBER_TABLE_SLOTS_AT, 266240);
}

/* Other numbers, sizes, directions and magics than ours. */
TEST(unknown_requests_are_enotty)
{
	convert(0);
	for (unsigned int number = 0; number < 256; number++) {
		unsigned long cmd = _IOC(_IOC_NONE, FIBER_IOC_MAGIC, number, 0);

		if (!is_request(cmd))
			CHECK_ERR(request(device, cmd, 1), ENOTTY);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(all_requests); i++) {
		unsigned long cmd = all_requests[i];

		for (int size = -8; size <= 8; size += 4) {
			unsigned long other = _IOC(_IOC_DIR(cmd), _IOC_TYPE(cmd), _IOC_NR(cmd),
						   ((int)_IOC_SIZE(cmd) + size) & 0x3fff);

			if (size && !is_request(other))
				CHECK_ERR(request(device, other, 1), ENOTTY);
		}
		for (unsigned int direction = 0; direction < 4; direction++) {
			unsigned long other = _IOC(direction, _IOC_TYPE(cmd), _IOC_NR(cmd),
						   _IOC_SIZE(cmd));

			if (!is_request(other))
				CHECK_ERR(request(device, other, 1), ENOTTY);
		}
		CHECK_ERR(request(device, cmd ^ 0x100, 1), ENOTTY);
	}
	/* TCGETS and the like are no concern of ours either. */
	CHECK_ERR(request(device, 0x5401, 0), ENOTTY);
	CHECK_EQ(self(), 1);
}

/* The kernel takes 32 bits of a request's number. */
TEST(high_bits_of_the_number_are_nothing)
{
	convert(0);
	CHECK_EQ((uint64_t)request(device, FIBER_IOC_VERSION | UINT64_C(1) << 40, 0),
		 FIBER_ABI_VERSION);
}

/* Requests that take an address: nothing of theirs may be touched, and no crash. */
TEST(addresses_that_cannot_be_accessed)
{
	static const unsigned long takes_address[] = {
		FIBER_IOC_CREATE, FIBER_IOC_SET_NAME, FIBER_IOC_SELF, FIBER_IOC_FLS_ALLOC,
		FIBER_IOC_FLS_SET, FIBER_IOC_FLS_GET,
	};
	char *none = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const unsigned long bad[] = {
		0, 1, 4095, (unsigned long)none, (unsigned long)none + 4095,
		UINT64_C(1) << 47, (UINT64_C(1) << 47) - 1, UINT64_C(1) << 56, UINT64_C(1) << 63,
		UINT64_C(0xffff800000000000), UINT64_C(0xffff888000000000),
		UINT64_C(0xffffffff81000000), UINT64_C(0xffffffffff600000), UINT64_MAX,
		UINT64_MAX - 7, UINT64_MAX - 4095,
	};

	CHECK(none != MAP_FAILED);
	convert(0);
	for (unsigned int i = 0; i < ARRAY_SIZE(takes_address); i++)
		for (unsigned int j = 0; j < ARRAY_SIZE(bad); j++) {
			long err = request(device, takes_address[i], bad[j]);

			if (err != -EFAULT)
				check_failed(__FILE__, __LINE__, "request 0x%lx at 0x%lx: %ld",
					     takes_address[i], bad[j], err);
		}
	CHECK_EQ(self(), 1);
	CHECK(!proc_exists(2));
}

/* The conversion is tried before it is refused as a second one, and after. */
TEST(addresses_of_a_conversion)
{
	static const unsigned long bad[] = {
		0, 1, UINT64_C(1) << 63, UINT64_C(0xffffffff81000000), UINT64_MAX,
	};

	device = device_open();
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++)
		CHECK_ERR(request(device, FIBER_IOC_CONVERT, bad[i]), EFAULT);
	CHECK_EQ(convert(0), 1);
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++)
		CHECK_ERR(request(device, FIBER_IOC_CONVERT, bad[i]), EEXIST);
}

/* Structures of which the kernel can read, or write, all but the last byte. */
TEST(structures_across_the_end_of_memory)
{
	static const struct {
		unsigned long cmd;
		size_t size;
	} requests[] = {
		{ FIBER_IOC_CREATE, sizeof(struct fiber_create) },
		{ FIBER_IOC_SET_NAME, sizeof(struct fiber_name) },
		{ FIBER_IOC_SELF, sizeof(uint64_t) },
		{ FIBER_IOC_FLS_ALLOC, sizeof(uint64_t) },
		{ FIBER_IOC_FLS_SET, sizeof(struct fiber_fls) },
		{ FIBER_IOC_FLS_GET, sizeof(struct fiber_fls) },
	};
	char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t index;

	CHECK(pages != MAP_FAILED);
	CHECK(munmap(pages + 4096, 4096) == 0);
	convert(0);
	/* So that FIBER_IOC_FLS_GET of position 0 gets as far as writing. */
	CHECK_OK(fls_alloc(&index));
	for (unsigned int i = 0; i < ARRAY_SIZE(requests); i++) {
		char *place = pages + 4096 - requests[i].size + 1;

		memset(pages, 0, 4096);
		CHECK_ERR(request(device, requests[i].cmd, (unsigned long)place), EFAULT);
	}
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 1);
	CHECK(!proc_exists(2));
}

TEST(unaligned_structures_are_fine)
{
	char buffer[sizeof(struct fiber_fls) + 8] __attribute__((aligned(8)));
	uint64_t index;

	convert(0);
	CHECK_OK(fls_alloc(&index));
	CHECK_OK(fls_set(0, POISON));
	for (int odd = 1; odd < 8; odd++) {
		struct fiber_fls args = { 0, 0 };

		memcpy(buffer + odd, &args, sizeof(args));
		CHECK_OK(request(device, FIBER_IOC_FLS_GET, (unsigned long)buffer + odd));
		memcpy(&args, buffer + odd, sizeof(args));
		CHECK_EQ(args.value, POISON);
	}
}

/* Each bit of an argument by value, for the requests that take one. */
TEST(ids_and_indices_bit_by_bit)
{
	convert(0);
	for (int bit = 1; bit < 64; bit++) {
		uint64_t wrong[] = {
			UINT64_C(1) << bit, UINT64_C(1) << bit | 1, ~(UINT64_C(1) << bit),
			(UINT64_C(1) << bit) - 1, -(UINT64_C(1) << bit),
		};

		for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++) {
			if (wrong[i] == 1)
				continue;
			CHECK_ERR(fiber_switch(wrong[i]), ESRCH);
			CHECK_ERR(fiber_delete(wrong[i]), ESRCH);
			CHECK_ERR(fls_free(wrong[i]), EINVAL);
		}
	}
	CHECK_EQ(self(), 1);
}

/* Requests without an argument ignore what stands in its place. */
TEST(arguments_where_there_are_none)
{
	convert(0);
	CHECK_ERR(request(device, FIBER_IOC_RETIRE, UINT64_MAX), EINVAL);
	CHECK_OK(request(device, FIBER_IOC_REVERT, UINT64_MAX));
}

TEST(device_is_for_everybody)
{
	struct stat status;

	CHECK(stat(FIBER_DEVICE, &status) == 0);
	CHECK(S_ISCHR(status.st_mode));
	CHECK_EQ(status.st_mode & 07777, 0666);
	CHECK_EQ(major(status.st_rdev), 10);
}

static void as_nobody(void)
{
	CHECK(setresgid(65534, 65534, 65534) == 0);
	CHECK(setresuid(65534, 65534, 65534) == 0);
	CHECK_EQ(convert(FIBER_FLAG_FPU), 1);
	CHECK(proc_is(1, "State", "running"));
}

TEST(ordinary_users_may_use_it)
{
	if (geteuid())
		skip("only root becomes somebody else");
	in_child(as_nobody);
}

TEST(other_operations_are_refused)
{
	struct pollfd ready;
	char byte = 0;

	convert(0);
	CHECK(read(device, &byte, 1) == -1 && errno == EINVAL);
	CHECK(write(device, &byte, 1) == -1 && errno == EINVAL);
	CHECK(pread(device, &byte, 1, 0) == -1 && errno == ESPIPE);
	CHECK(lseek(device, 0, SEEK_SET) == -1 && errno == ESPIPE);
	/* A table is for processes whose fibers the module does not switch. */
	CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, device, 0) == MAP_FAILED && errno == EBUSY);
	ready = (struct pollfd) { .fd = device, .events = POLLIN };
	CHECK(poll(&ready, 1, 0) >= 0);
	CHECK_EQ(self(), 1);
}

/* Neither writing nor reading is needed: the permission is that of the device. */
TEST(read_only_descriptor_serves)
{
	struct fiber_convert args = { .id = POISON };
	int fd = open(FIBER_DEVICE, O_RDONLY | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_OK(request(fd, FIBER_IOC_CONVERT, (unsigned long)&args));
	CHECK_EQ(args.id, 1);
}

TEST(path_descriptor_does_not)
{
	int fd = open(FIBER_DEVICE, O_PATH | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_ERR(request(fd, FIBER_IOC_VERSION, 0), EBADF);
}

static sigjmp_buf no_emulation;

static void on_segv(int number)
{
	siglongjmp(no_emulation, number);
}

/* An ioctl() as a 32-bit program makes it. */
static long request_32(unsigned int cmd, unsigned int arg)
{
	int result;

	__asm__ volatile("int $0x80"
			 : "=a" (result)
			 : "0" (54), "b" (device), "c" (cmd), "d" (arg)
			 : "r8", "r9", "r10", "r11", "cc", "memory");
	return result;
}

TEST(requests_of_32_bit_programs_are_enotty)
{
	struct sigaction action = { .sa_handler = on_segv };
	void *low;

	convert(0);
	CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
	if (sigsetjmp(no_emulation, 1))
		skip("this kernel runs no 32-bit programs");
	/* Where a 32-bit program has its structures. */
	low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT,
		   -1, 0);
	CHECK(low != MAP_FAILED);
	if (request_32(FIBER_IOC_VERSION, 0) == -ENOSYS)
		skip("this kernel runs no 32-bit programs");
	memset(low, 0xa5, 4096);
	for (unsigned int i = 0; i < ARRAY_SIZE(all_requests); i++)
		CHECK_ERR(request_32((unsigned int)all_requests[i], (unsigned int)(uintptr_t)low),
			  ENOTTY);
	for (int i = 0; i < 4096; i++)
		CHECK(((unsigned char *)low)[i] == 0xa5);
	CHECK_EQ(self(), 1);
}
