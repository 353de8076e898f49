/* SPDX-License-Identifier: MIT */
/*
 * One cell of a cellular network: 1000 channels, calls that arrive and end, and
 * the calendar queue of what is to happen. Knows nothing of fibers and
 * allocates nothing: a signal handler may leave a cell at any instruction, and
 * whoever leaves must hold nothing that another cell needs.
 *
 * All that happens in a cell follows from its seed alone.
 */
#ifndef BENCH_CELL_H
#define BENCH_CELL_H

#include <stdbool.h>
#include <stdint.h>

#define CELL_CHANNELS	1000
/* One end for each channel, and the next arrival. */
#define CELL_EVENTS	(CELL_CHANNELS + 1)
#define CELL_DAYS	1024

enum event_kind { EVENT_ARRIVAL, EVENT_END };

struct event {
	double time;
	uint32_t owner;		/* index of the cell that scheduled it */
	int16_t next;		/* in its day's list or the free list; -1: last */
	int16_t channel;	/* of EVENT_END */
	enum event_kind kind;
};

/*
 * Events by time. A day is a list in order; its number is time / DAY_LENGTH
 * modulo CELL_DAYS. Every event is in one list: a day's or the free one.
 */
struct queue {
	uint32_t owner;
	uint64_t today;		/* no event is before it; not reduced */
	unsigned int scheduled;
	int16_t free;
	int16_t days[CELL_DAYS];
	struct event events[CELL_EVENTS];
};

struct channel {
	float gain;		/* of the path to the caller */
	float fading;
	float power;
	int16_t place;		/* in the cell's used[]; -1: free */
};

struct cell {
	uint32_t index;
	uint64_t random;	/* state of the generator that drives what happens */
	double now;
	double start_hour;

	uint64_t arrivals, started, blocked, completed, events;

	unsigned int free_count, used_count;
	int16_t free[CELL_CHANNELS];	/* the first free_count of them */
	int16_t used[CELL_CHANNELS];	/* the first used_count of them */
	struct channel channels[CELL_CHANNELS];
};

/* A number from 0 to 2^64 - 1; the state is the caller's. */
uint64_t random_next(uint64_t *state);

/* The cell is idle, its first call about to arrive. */
void cell_start(struct cell *cell, struct queue *queue, uint32_t index, uint64_t seed);

/*
 * Takes the next event, of which there is always one. Gives its owner, who must
 * be the cell.
 */
uint32_t cell_next(struct queue *queue, struct event *event);

/* An event schedules at most so many others: a call's end and the next arrival. */
#define CELL_NEWS	2

/* Makes it happen. Returns how many events follow from it and stores them in `news`. */
unsigned int cell_handle(struct cell *cell, const struct event *event,
			 struct event news[CELL_NEWS]);

/* Puts an event that cell_handle() gave into the cell's queue. */
void cell_schedule(struct queue *queue, const struct event *event);

/* What is wrong with the cell's books; NULL: nothing. */
const char *cell_audit(const struct cell *cell, const struct queue *queue);

#endif /* BENCH_CELL_H */
