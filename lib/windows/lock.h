/* SPDX-License-Identifier: MIT */
#ifndef LIBFIBER_WINDOWS_LOCK_H
#define LIBFIBER_WINDOWS_LOCK_H

#include <pthread.h>

/* Guards lists and references of handles. No callback runs under it. The child of a fork() has it free. */
extern pthread_mutex_t windows_lock;

#endif /* LIBFIBER_WINDOWS_LOCK_H */
