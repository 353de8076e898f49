/* SPDX-License-Identifier: MIT */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "pin.h"

/* Weak, and so missing where a program is linked as a whole and nothing can be unloaded. */
#pragma weak dladdr
#pragma weak dlopen

void pin(void)
{
	static _Atomic bool pinned;
	int saved_errno = errno;
	Dl_info object;

	if (atomic_exchange(&pinned, true) || !dladdr || !dlopen)
		return;
	if (dladdr((const void *)&pinned, &object) && object.dli_fname)
		dlopen(object.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
	errno = saved_errno;
}
