/* SPDX-License-Identifier: MIT */
/*
 * A file whose pages come late or never: a FUSE file system with one file, served by a child of
 * this process, without libfuse. Needs root and CONFIG_FUSE_FS (or its module).
 */
#ifndef FUSE_H
#define FUSE_H

#include <stdbool.h>
#include <stddef.h>

/* Mounts it and returns a descriptor of its file, which is large. Skips the test if it cannot. */
int fuse_file(void);
/* How many reads have reached the server and were not answered. */
unsigned int fuse_waiting(void);
/* Answers all of them, and all later ones, with zeros. */
void fuse_answer(void);

#endif /* FUSE_H */
