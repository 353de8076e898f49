/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "cell.h"

#define DAY_LENGTH	0.25	/* seconds; CELL_DAYS of them reach beyond most calls' ends */
#define CALL_MEAN	60.0
#define SIGNAL_TO_NOISE	10.0f
#define POWER_MIN	0.01f
#define POWER_MAX	10.0f

/* Mean seconds between calls, by the hour of the simulated day: around 0.16, less when all call. */
static const double arrival_mean[24] = {
	0.30, 0.36, 0.40, 0.40, 0.36, 0.30, 0.22, 0.16, 0.11, 0.08, 0.07, 0.07,
	0.08, 0.09, 0.10, 0.09, 0.08, 0.06, 0.05, 0.07, 0.10, 0.14, 0.18, 0.24,
};

/* splitmix64, by Sebastiano Vigna (public domain). */
uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static double exponential(struct cell *cell, double mean)
{
	/* 0 < u <= 1 */
	double u = (double)((random_next(&cell->random) >> 11) + 1) * 0x1p-53;

	return -mean * log(u);
}

void cell_schedule(struct queue *queue, const struct event *event)
{
	int16_t taken = queue->free;
	struct event *slot = &queue->events[taken];
	int16_t *link = &queue->days[(uint64_t)(event->time / DAY_LENGTH) % CELL_DAYS];

	queue->free = slot->next;
	*slot = *event;
	while (*link >= 0 && queue->events[*link].time <= event->time)
		link = &queue->events[*link].next;
	slot->next = *link;
	*link = taken;
	queue->scheduled++;
}

static void queue_take(struct queue *queue, int16_t *link, struct event *event)
{
	int16_t taken = *link;

	*event = queue->events[taken];
	*link = event->next;
	queue->events[taken].next = queue->free;
	queue->free = taken;
	queue->scheduled--;
}

/* All events are more than a year away: goes to the day of the first. */
static void queue_skip(struct queue *queue)
{
	double first = HUGE_VAL;
	unsigned int day;

	for (day = 0; day < CELL_DAYS; day++) {
		int16_t head = queue->days[day];

		if (head >= 0 && queue->events[head].time < first)
			first = queue->events[head].time;
	}
	queue->today = (uint64_t)(first / DAY_LENGTH);
}

uint32_t cell_next(struct queue *queue, struct event *event)
{
	unsigned int days;

	for (;;) {
		for (days = 0; days < CELL_DAYS; days++, queue->today++) {
			int16_t *link = &queue->days[queue->today % CELL_DAYS];

			if (*link < 0)
				continue;
			if ((uint64_t)(queue->events[*link].time / DAY_LENGTH) != queue->today)
				continue;
			queue_take(queue, link, event);
			return event->owner;
		}
		queue_skip(queue);
	}
}

static struct event new_event(const struct cell *cell, enum event_kind kind, double delay,
			      int16_t channel)
{
	return (struct event){
		.time = cell->now + delay,
		.owner = cell->index,
		.kind = kind,
		.channel = channel,
	};
}

static struct event next_arrival(struct cell *cell)
{
	unsigned int hour = (unsigned int)(cell->start_hour + cell->now / 3600.0) % 24;

	return new_event(cell, EVENT_ARRIVAL, exponential(cell, arrival_mean[hour]), -1);
}

/* As strong as needed to be heard through all other calls in progress. */
static float needed_power(const struct cell *cell, const struct channel *channel)
{
	float noise = 0.001f, power;
	unsigned int i;

	for (i = 0; i < cell->used_count; i++) {
		const struct channel *other = &cell->channels[cell->used[i]];

		noise += other->power * other->gain * other->fading * 0.001f;
	}
	power = SIGNAL_TO_NOISE * noise / (channel->gain * channel->fading);
	return power < POWER_MIN ? POWER_MIN : power > POWER_MAX ? POWER_MAX : power;
}

static unsigned int call_starts(struct cell *cell, struct event *news)
{
	struct channel *channel;
	int16_t taken;

	cell->arrivals++;
	news[0] = next_arrival(cell);
	if (!cell->free_count) {
		cell->blocked++;
		return 1;
	}
	taken = cell->free[--cell->free_count];
	channel = &cell->channels[taken];
	channel->gain = 0.01f + (float)(random_next(&cell->random) >> 40) * 0x1p-24f;
	channel->fading = 0.01f + (float)exponential(cell, 1.0);
	channel->power = needed_power(cell, channel);
	channel->place = (int16_t)cell->used_count;
	cell->used[cell->used_count++] = taken;
	cell->started++;
	news[1] = new_event(cell, EVENT_END, exponential(cell, CALL_MEAN), taken);
	return 2;
}

static void call_ends(struct cell *cell, int16_t ended)
{
	struct channel *channel = &cell->channels[ended];
	int16_t last = cell->used[--cell->used_count];

	cell->used[channel->place] = last;
	cell->channels[last].place = channel->place;
	channel->place = -1;
	cell->free[cell->free_count++] = ended;
	cell->completed++;
}

unsigned int cell_handle(struct cell *cell, const struct event *event,
			 struct event news[CELL_NEWS])
{
	cell->events++;
	cell->now = event->time;
	if (event->kind == EVENT_ARRIVAL)
		return call_starts(cell, news);
	call_ends(cell, event->channel);
	return 0;
}

void cell_start(struct cell *cell, struct queue *queue, uint32_t index, uint64_t seed)
{
	struct event first;
	int16_t i;

	memset(cell, 0, sizeof(*cell));
	cell->index = index;
	cell->random = seed ^ (uint64_t)(index + 1) * UINT64_C(0xd1342543de82ef95);
	cell->start_hour = index % 24;
	cell->free_count = CELL_CHANNELS;
	for (i = 0; i < CELL_CHANNELS; i++) {
		cell->free[i] = (int16_t)(CELL_CHANNELS - 1 - i);
		cell->channels[i].place = -1;
	}
	memset(queue, 0, sizeof(*queue));
	queue->owner = index;
	for (i = 0; i < CELL_DAYS; i++)
		queue->days[i] = -1;
	for (i = 0; i < CELL_EVENTS; i++)
		queue->events[i].next = (int16_t)(i + 1 < CELL_EVENTS ? i + 1 : -1);
	first = next_arrival(cell);
	cell_schedule(queue, &first);
}

const char *cell_audit(const struct cell *cell, const struct queue *queue)
{
	unsigned int i, used = 0, ends = 0, arrivals = 0;

	for (i = 0; i < CELL_CHANNELS; i++)
		used += cell->channels[i].place >= 0;
	for (i = 0; i < CELL_DAYS; i++) {
		int16_t event;

		for (event = queue->days[i]; event >= 0; event = queue->events[event].next) {
			if (queue->events[event].owner != cell->index)
				return "an event of another cell is in its queue";
			if (queue->events[event].kind == EVENT_END)
				ends++;
			else
				arrivals++;
		}
	}
	if (queue->owner != cell->index)
		return "its queue is another cell's";
	if (cell->arrivals != cell->started + cell->blocked)
		return "calls that arrived are not those that started and were blocked";
	if (cell->started != cell->completed + cell->used_count)
		return "calls that started are not those that ended and are in progress";
	if (cell->free_count + cell->used_count != CELL_CHANNELS || used != cell->used_count)
		return "free and used channels are not 1000";
	if (ends != cell->used_count || arrivals != 1 || queue->scheduled != ends + arrivals)
		return "scheduled events are not one arrival and the ends of the calls in progress";
	if (cell->events != cell->arrivals + cell->completed)
		return "events are not the arrivals and ends";
	return NULL;
}
