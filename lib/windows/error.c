/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "error.h"

static _Thread_local DWORD last_error;

/* A function each, so that no caller keeps the variable's address over a switch. */
DWORD WINAPI GetLastError(VOID)
{
	return last_error;
}

VOID WINAPI SetLastError(DWORD error)
{
	last_error = error;
}

static DWORD windows_error(int err)
{
	switch (err) {
	case 0:
		return ERROR_SUCCESS;
	case EEXIST:
		return ERROR_ALREADY_FIBER;
	case EPERM:
		return ERROR_ALREADY_THREAD;
	case EINVAL:
		return ERROR_INVALID_PARAMETER;
	case EDQUOT:
		return ERROR_NOT_ENOUGH_QUOTA;
	case ENOMEM:
	case EAGAIN:
		return ERROR_NOT_ENOUGH_MEMORY;
	default:
		return ERROR_NOT_SUPPORTED;
	}
}

void error_set(int err)
{
	SetLastError(windows_error(err));
}

static const char *reason(int err)
{
	switch (err) {
	case EPERM:
		return "the calling thread is no fiber";
	case ESRCH:
		return "there is no such fiber, or it was deleted";
	case EBUSY:
		return "another thread runs the fiber";
	case EOWNERDEAD:
		return "the fiber was a thread that has ended";
	case EINVAL:
		return "the caller is on its signal's alternate stack";
	case EAGAIN:
		return "the caller is a signal handler that interrupted libfiber";
	case ENOMEM:
		return "no memory";
	default:
		return "an unexpected error";
	}
}

void error_abort(const char *function, const void *fiber, int err)
{
	fprintf(stderr, "libfiber-windows: %s(%p): %s (error %d)\n", function, fiber, reason(err), err);
	abort();
}
