/* SPDX-License-Identifier: MIT */
#ifndef LIBFIBER_OTEL_PROCESS_H
#define LIBFIBER_OTEL_PROCESS_H

/*
 * OpenTelemetry's process context (OTEP 4719): a mapping that readers find by its name. Says which
 * numbers the keys of thread records are: fiber.id is 0, fiber.name 1. EEXIST: an SDK has
 * published one, and a process has one only. With the lock held.
 */
int otel_process_publish(void);

#define OTEL_FIBER_ID	0
#define OTEL_FIBER_NAME	1

#endif /* LIBFIBER_OTEL_PROCESS_H */
