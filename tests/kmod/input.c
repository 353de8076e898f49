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
	FIBER_IOC_SELF, FIBER_IOC_STAT, FIBER_IOC_FLS_ALLOC, FIBER_IOC_FLS_FREE,
	FIBER_IOC_FLS_SET, FIBER_IOC_FLS_GET, FIBER_IOC_COMMIT, FIBER_IOC_ATTACH,
	FIBER_IOC_DETACH,
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
	CHECK_EQ(sizeof(struct fiber_create), 120);
	CHECK_EQ(offsetof(struct fiber_create, name), 40);
	CHECK_EQ(offsetof(struct fiber_create, id), 104);
	CHECK_EQ(sizeof(struct fiber_name), 80);
	CHECK_EQ(offsetof(struct fiber_name, name), 16);
	CHECK_EQ(sizeof(struct fiber_fls), 24);
	CHECK_EQ(offsetof(struct fiber_fls, value), 16);
	CHECK_EQ(sizeof(struct fiber_snapshot), 176);
	CHECK_EQ(offsetof(struct fiber_snapshot, entry), 56);
	CHECK_EQ(offsetof(struct fiber_snapshot, thread), 96);
	CHECK_EQ(offsetof(struct fiber_snapshot, name), 112);
	CHECK_EQ(FIBER_IOC_CONVERT, 0xfb01);
	CHECK_EQ(FIBER_IOC_CREATE, 0xfb02);
	CHECK_EQ(FIBER_IOC_SWITCH, 0xfb03);
	CHECK_EQ(FIBER_IOC_SET_NAME, 0xfb07);
	CHECK_EQ(FIBER_IOC_STAT, 0xfb09);
	CHECK_EQ(FIBER_IOC_FLS_GET, 0xfb13);
	CHECK_EQ(FIBER_IOC_ATTACH, 0xfb21);
	CHECK_EQ(sizeof(struct fiber_table), 96);
	CHECK_EQ(sizeof(struct fiber_slot), 192);
	CHECK_EQ(offsetof(struct fiber_slot, state), 56);
	CHECK_EQ(offsetof(struct fiber_slot, name), 128);
	CHECK_EQ(sizeof(struct fiber_thread_area), 64);
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
		FIBER_IOC_CREATE, FIBER_IOC_SET_NAME, FIBER_IOC_SELF, FIBER_IOC_STAT,
		FIBER_IOC_FLS_ALLOC, FIBER_IOC_FLS_SET, FIBER_IOC_FLS_GET,
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
		uint32_t size;
	} requests[] = {
		{ FIBER_IOC_CREATE, sizeof(struct fiber_create) },
		{ FIBER_IOC_SET_NAME, sizeof(struct fiber_name) },
		{ FIBER_IOC_SELF, sizeof(uint64_t) },
		{ FIBER_IOC_STAT, sizeof(struct fiber_snapshot) },
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
		memcpy(place, &requests[i].size, sizeof(requests[i].size));
		CHECK_ERR(request(device, requests[i].cmd, (unsigned long)place), EFAULT);
	}
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 1);
	CHECK(!proc_exists(2));
}

static void size_idle(void *arg)
{
	(void)arg;
}

/* The largest size that a caller may give. */
#define SIZE_MOST 4096

union sized {
	uint32_t size;
	struct fiber_convert convert;
	struct fiber_create create;
	struct fiber_name name;
	struct fiber_snapshot snapshot;
	struct fiber_fls fls;
	char bytes[SIZE_MOST + 8];
};

static const struct {
	unsigned long cmd;
	uint32_t size;
} sized_requests[] = {
	{ FIBER_IOC_CREATE, sizeof(struct fiber_create) },
	{ FIBER_IOC_SET_NAME, sizeof(struct fiber_name) },
	{ FIBER_IOC_STAT, sizeof(struct fiber_snapshot) },
	{ FIBER_IOC_FLS_SET, sizeof(struct fiber_fls) },
	{ FIBER_IOC_FLS_GET, sizeof(struct fiber_fls) },
};

/* Arguments that are right but for their size, and fill the rest with zeros. */
static void sized_fill(union sized *args, unsigned int which, uint32_t size)
{
	memset(args, 0, sizeof(*args));
	if (sized_requests[which].cmd == FIBER_IOC_CREATE) {
		args->create.entry = (uintptr_t)size_idle;
		args->create.stack_start = 65536;
		args->create.stack_size = STACK_SIZE;
	}
	args->size = size;
}

/* What a newer program sends to this kernel, and what no program may. */
TEST(structures_of_other_sizes)
{
	static union sized args;
	uint64_t index;

	convert(0);
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(sized_requests); i++) {
		unsigned long cmd = sized_requests[i].cmd;
		uint32_t own = sized_requests[i].size;
		const uint32_t good[] = { own, own + 1, own + 4, own + 8, SIZE_MOST };
		const uint32_t small[] = { 0, 1, 3, 4, 8, own - 8, own - 1 };
		const uint32_t large[] = { SIZE_MOST + 1, SIZE_MOST + 8, 1U << 20, 1U << 31,
					   UINT32_MAX };

		for (unsigned int j = 0; j < ARRAY_SIZE(good); j++) {
			sized_fill(&args, i, good[j]);
			CHECK_OK(request(device, cmd, (unsigned long)&args));
			/* The kernel writes no further than it knows. */
			for (uint32_t k = own; k < sizeof(args); k++)
				CHECK(!args.bytes[k]);
			/* What it does not know is not 0: the first such byte, the last. */
			for (int last = 0; last < 2 && good[j] > own; last++) {
				sized_fill(&args, i, good[j]);
				args.bytes[last ? good[j] - 1 : own] = 1;
				CHECK_ERR(request(device, cmd, (unsigned long)&args), E2BIG);
			}
			/* Behind what the caller says is none of the kernel's business. */
			sized_fill(&args, i, good[j]);
			args.bytes[good[j]] = 1;
			CHECK_OK(request(device, cmd, (unsigned long)&args));
		}
		for (unsigned int j = 0; j < ARRAY_SIZE(small); j++) {
			sized_fill(&args, i, small[j]);
			CHECK_ERR(request(device, cmd, (unsigned long)&args), EINVAL);
		}
		for (unsigned int j = 0; j < ARRAY_SIZE(large); j++) {
			sized_fill(&args, i, large[j]);
			CHECK_ERR(request(device, cmd, (unsigned long)&args), E2BIG);
		}
	}
	CHECK_EQ(self(), 1);
}

/* The padding of structures that have some. */
TEST(padding_that_is_not_zero)
{
	struct fiber_name name = { .size = sizeof(name), .pad = 1 };
	struct fiber_fls fls = { .size = sizeof(fls), .pad = 1 };
	uint64_t index;

	convert(0);
	CHECK_OK(fls_alloc(&index));
	for (int bit = 0; bit < 32; bit++) {
		name.pad = fls.pad = 1U << bit;
		CHECK_ERR(request(device, FIBER_IOC_SET_NAME, (unsigned long)&name), EINVAL);
		CHECK_ERR(request(device, FIBER_IOC_FLS_SET, (unsigned long)&fls), EINVAL);
		CHECK_ERR(request(device, FIBER_IOC_FLS_GET, (unsigned long)&fls), EINVAL);
	}
}

TEST(conversions_of_other_sizes)
{
	static union sized args;

	device = device_open();
	for (uint32_t size = 0; size < 16; size++) {
		memset(&args, 0, sizeof(args));
		args.size = size;
		CHECK_ERR(request(device, FIBER_IOC_CONVERT, (unsigned long)&args), EINVAL);
	}
	args.size = SIZE_MOST + 1;
	CHECK_ERR(request(device, FIBER_IOC_CONVERT, (unsigned long)&args), E2BIG);
	args.size = SIZE_MOST;
	args.bytes[SIZE_MOST - 1] = 1;
	CHECK_ERR(request(device, FIBER_IOC_CONVERT, (unsigned long)&args), E2BIG);
	args.bytes[SIZE_MOST - 1] = 0;
	CHECK_OK(request(device, FIBER_IOC_CONVERT, (unsigned long)&args));
	CHECK_EQ(args.convert.id, 1);
	CHECK_EQ(args.size, SIZE_MOST);
}

TEST(unaligned_structures_are_fine)
{
	char buffer[sizeof(struct fiber_fls) + 8] __attribute__((aligned(8)));
	uint64_t index;

	convert(0);
	CHECK_OK(fls_alloc(&index));
	CHECK_OK(fls_set(0, POISON));
	for (int odd = 1; odd < 8; odd++) {
		struct fiber_fls args = { .size = sizeof(args), .index = 0, .value = 0 };

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

/* Its mode is the administrator's: test_unload.py has the one that the kernel gives it. */
TEST(device_is_a_misc_device)
{
	struct stat status;

	CHECK(stat(FIBER_DEVICE, &status) == 0);
	CHECK(S_ISCHR(status.st_mode));
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
	struct fiber_convert args = { .size = sizeof(args), .id = POISON };
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
