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
	if (switch_ioctl(file, FIBER_IOC_VERSION, 0) != FIBER_ABI_VERSION) {
		close(file);
		return EPROTO;
	}
	*device = file;
	return 0;
}
