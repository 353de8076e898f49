/* SPDX-License-Identifier: MIT */
/* What each file here defines of its library's fibers, for measure.h, which it includes last. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <stddef.h>

/* Of each fiber's stack, in bytes, whoever makes it. */
#define PEER_STACK	((size_t)64 << 10)

/* What it keeps of one; defined by the peer. */
struct peer_fiber;

/* What all fibers run, without returning; set before the first is created. */
static void (*peer_body)(void);

/* The thread, as one of them. */
static void peer_begin(struct peer_fiber *self);

/* A new one that runs peer_body() when it is first switched to. -1 and errno. */
static int peer_create(struct peer_fiber *fiber);

/* Which is not running. */
static inline void peer_delete(struct peer_fiber *fiber);

/* From the fiber that runs to another one. */
static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to);

#ifdef PEER_HINT
/* That one is soon switched to: PEER_HINT switches from now. */
static inline void peer_hint(const struct peer_fiber *fiber);
#endif

#endif /* BENCH_PEER_H */
