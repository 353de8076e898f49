/* SPDX-License-Identifier: MIT */
/*
 * The thread-local pointer that OpenTelemetry's profilers look for (OTEP 4947), in an object of its
 * own, which is loaded where fibers have records for them: an unused second one beside an SDK's would
 * mislead the profilers. libfiber, inside _native, finds it as it finds an SDK's (lib/otel.h).
 */
#include <Python.h>

__attribute__((visibility("default"))) _Thread_local void *otel_thread_ctx_v1;

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "kfiber._otel",
};

PyMODINIT_FUNC PyInit__otel(void)
{
	/* An access, so that the object has the relocation by which readers find the variable. */
	*(void *volatile *)&otel_thread_ctx_v1 = NULL;
	return PyModuleDef_Init(&definition);
}
