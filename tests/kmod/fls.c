/* SPDX-License-Identifier: MIT */
/* Fiber-local storage: FIBER_IOC_FLS_*. */
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

TEST(positions_count_up_and_are_zero)
{
	uint64_t index, value;

	convert(0);
	for (uint64_t i = 0; i < 40; i++) {
		CHECK_OK(fls_alloc(&index));
		CHECK_EQ(index, i);
		CHECK_OK(fls_get(index, &value));
		CHECK_EQ(value, 0);
	}
}

TEST(values_stay)
{
	uint64_t index, value;

	convert(0);
	/* Over each growth of the storage. */
	for (uint64_t i = 0; i < FIBER_FLS_MAX; i++) {
		CHECK_OK(fls_alloc(&index));
		CHECK_OK(fls_set(index, POISON ^ i));
	}
	for (uint64_t i = 0; i < FIBER_FLS_MAX; i++) {
		CHECK_OK(fls_get(i, &value));
		CHECK_EQ(value, POISON ^ i);
	}
}

TEST(all_positions_then_eagain)
{
	uint64_t index;

	convert(0);
	for (uint64_t i = 0; i < FIBER_FLS_MAX; i++)
		CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, FIBER_FLS_MAX - 1);
	CHECK_ERR(fls_alloc(&index), EAGAIN);
	CHECK_EQ(index, POISON);
	CHECK_OK(fls_free(700));
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 700);
	CHECK_ERR(fls_alloc(&index), EAGAIN);
	CHECK_EQ(index, POISON);
}

TEST(freed_position_is_the_next_and_zero)
{
	uint64_t index, value;

	convert(0);
	for (int i = 0; i < 5; i++)
		CHECK_OK(fls_alloc(&index));
	CHECK_OK(fls_set(2, POISON));
	CHECK_OK(fls_free(3));
	CHECK_OK(fls_free(2));
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 2);
	CHECK_OK(fls_get(2, &value));
	CHECK_EQ(value, 0);
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 3);
}

static void check_unallocated(uint64_t index)
{
	uint64_t value;

	CHECK_ERR(fls_get(index, &value), EINVAL);
	CHECK_EQ(value, POISON);
	CHECK_ERR(fls_set(index, 1), EINVAL);
	CHECK_ERR(fls_free(index), EINVAL);
}

/* The report's module read and wrote kernel memory for such. */
TEST(unallocated_positions_are_einval)
{
	static const uint64_t wrong[] = {
		4, 7, 8, 9, 63, 64, 65, FIBER_FLS_MAX - 1, FIBER_FLS_MAX, FIBER_FLS_MAX + 1, 65536,
		UINT64_C(0x7fffffff), UINT64_C(1) << 31, UINT64_C(0xffffffff), UINT64_C(1) << 32,
		(UINT64_C(1) << 32) + 1, UINT64_C(1) << 61, UINT64_C(1) << 63, UINT64_MAX,
		UINT64_MAX - 1,
	};
	uint64_t index, value;

	convert(0);
	/* Before there is any storage, and beside some. */
	for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++)
		check_unallocated(wrong[i]);
	for (int i = 0; i < 4; i++)
		CHECK_OK(fls_alloc(&index));
	CHECK_OK(fls_set(1, 11));
	for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++)
		check_unallocated(wrong[i]);
	CHECK_OK(fls_free(2));
	check_unallocated(2);
	CHECK_OK(fls_get(1, &value));
	CHECK_EQ(value, 11);
}

static uint64_t home;

static void storage_user(void *arg)
{
	uint64_t index, value;

	/* What the creator allocated says nothing here. */
	check_unallocated(0);
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 0);
	CHECK_OK(fls_get(0, &value));
	CHECK_EQ(value, 0);
	CHECK_OK(fls_set(0, (uintptr_t)arg));
	for (;;) {
		CHECK_OK(fiber_switch(home));
		CHECK_OK(fls_get(0, &value));
		CHECK_EQ(value, (uintptr_t)arg);
	}
}

TEST(storage_is_of_one_fiber)
{
	uint64_t index, value, ids[4];

	home = convert(0);
	CHECK_OK(fls_alloc(&index));
	CHECK_OK(fls_set(index, POISON));
	for (uintptr_t i = 0; i < 4; i++)
		ids[i] = create(storage_user, (void *)(i + 100), 0, NULL);
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 4; i++)
			CHECK_OK(fiber_switch(ids[i]));
	CHECK_OK(fls_get(index, &value));
	CHECK_EQ(value, POISON);
	/* Freeing here frees nothing there. */
	CHECK_OK(fls_free(index));
	CHECK_OK(fiber_switch(ids[0]));
}

static void *resume(void *arg)
{
	uint64_t value;

	home = convert(0);
	CHECK_ERR(fls_get(0, &value), EINVAL);
	CHECK_OK(fiber_switch(*(uint64_t *)arg));
	return NULL;
}

TEST(storage_travels_with_its_fiber)
{
	uint64_t id;

	home = convert(0);
	id = create(storage_user, (void *)0x1234, 0, NULL);
	CHECK_OK(fiber_switch(id));
	thread_join(thread_start(resume, &id));
	CHECK_EQ(proc_number(id, "Number of activations"), 2);
}

TEST(addresses_that_cannot_be_used)
{
	struct fiber_fls *page;
	uint64_t index;

	convert(0);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	page->size = sizeof(*page);
	CHECK(mprotect(page, 4096, PROT_READ) == 0);
	CHECK_ERR(request(device, FIBER_IOC_FLS_ALLOC, 0), EFAULT);
	CHECK_ERR(request(device, FIBER_IOC_FLS_ALLOC, (unsigned long)page), EFAULT);
	CHECK_ERR(request(device, FIBER_IOC_FLS_ALLOC, UINT64_C(0xffff888000000000)), EFAULT);
	/* None of that took a position. */
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 0);
	CHECK_ERR(request(device, FIBER_IOC_FLS_SET, 0), EFAULT);
	CHECK_ERR(request(device, FIBER_IOC_FLS_SET, UINT64_MAX), EFAULT);
	CHECK_ERR(request(device, FIBER_IOC_FLS_GET, 0), EFAULT);
	CHECK_ERR(request(device, FIBER_IOC_FLS_GET, UINT64_C(1) << 63), EFAULT);
	/* Position 0 is read from it, but takes no value. */
	CHECK_ERR(request(device, FIBER_IOC_FLS_GET, (unsigned long)page), EFAULT);
}
