/* SPDX-License-Identifier: MIT */
#ifndef LIBFIBER_WINDOWS_ERROR_H
#define LIBFIBER_WINDOWS_ERROR_H

#include <windows.h>

/* Sets the last error by an error number of libfiber's. */
void error_set(int err);

/* Ends the process: `function` cannot do to that fiber what it must, and has no error to return. */
_Noreturn void error_abort(const char *function, const void *fiber, int err);

#endif /* LIBFIBER_WINDOWS_ERROR_H */
