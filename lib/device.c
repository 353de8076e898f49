/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "device.h"
#include "switch.h"
#include "uapi/fiber.h"

int device_open(int *device)
{
	int file = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);

	if (file < 0)
		return errno == ENOENT || errno == ENXIO ? ENODEV : errno;
	/* A request that a later module has and this one lacks is ENOTTY; versions are not compared. */
	if (switch_ioctl(file, FIBER_IOC_VERSION, 0) < 1) {
		close(file);
		return EPROTO;
	}
	*device = file;
	return 0;
}
