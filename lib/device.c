/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"
#include "switch.h"
#include "uapi/fiber.h"

/* Valid from device_open() to device_close(). */
static _Atomic int device;
static _Atomic dev_t number_of_device;

static bool is_device(int file)
{
	struct stat status;

	return !fstat(file, &status) && S_ISCHR(status.st_mode) &&
	       status.st_rdev == number_of_device;
}

static int open_file(int *opened)
{
	struct stat status;
	int file = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);

	if (file < 0)
		return errno == ENOENT || errno == ENXIO ? ENODEV : errno;
	/* A request that a later module has and this one lacks is ENOTTY; versions are not compared. */
	if (switch_ioctl(file, FIBER_IOC_VERSION, 0) < 1 || fstat(file, &status)) {
		close(file);
		return EPROTO;
	}
	number_of_device = status.st_rdev;
	*opened = file;
	return 0;
}

int device_open(void)
{
	int file, err = open_file(&file);

	if (!err)
		device = file;
	return err;
}

void device_close(void)
{
	if (is_device(device))
		close(device);
}

/* Several threads may find out at once. */
int device_file(int *file)
{
	int saved_errno = errno, before = device, err = 0;

	*file = before;
	if (!is_device(before)) {
		err = open_file(file);
		if (!err && !atomic_compare_exchange_strong(&device, &before, *file)) {
			close(*file);
			*file = before;
		}
	}
	errno = saved_errno;
	return err;
}

int device_request(unsigned long number, uintptr_t argument)
{
	int file, err = (int)-switch_ioctl(device, number, argument);

	if (err != EBADF && err != ENOTTY)
		return err;
	/* The request is unknown to the module, or this is another file. */
	if (is_device(device))
		return err;
	err = device_file(&file);
	return err ? err : (int)-switch_ioctl(file, number, argument);
}
