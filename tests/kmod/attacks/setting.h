/* SPDX-License-Identifier: MIT */
/* What a test sets up around its processes: parameters of the module, users, files of the kernel. */
#ifndef SETTING_H
#define SETTING_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Users of the tests; no other process is theirs. */
#define USER_A 12001
#define USER_B 12002

/* The calling process becomes that user, without groups, and can be looked at by itself. */
void become(uid_t user);

/* Reads or writes a small file; the first line without its end. Returns 0 or a negative error. */
long file_read(const char *path, char *text, size_t size);
long file_write(const char *path, const char *text);

/*
 * The same for files that make the kernel patch its own code. Only one processor is on line then:
 * QEMU 7.2 with a thread a processor can execute a stale translation of what is patched.
 */
long file_write_alone(const char *path, const char *text, int flags);

/*
 * Sets a parameter of the module for the rest of this case: run_with() puts it back, whatever
 * became of the child that it runs, and fails if that failed. Skips unless root.
 */
void run_with(const char *name, const char *value, void (*run)(void));

/* Starts a child that runs @run and then waits for its end; returns once @run has returned. */
pid_t start_until_ready(void (*run)(void));
/* Kills and reaps it. */
void end(pid_t pid);

#endif /* SETTING_H */
