/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "otel_process.h"

/* Linux 5.17. */
#ifndef PR_SET_VMA
#define PR_SET_VMA		0x53564d41
#define PR_SET_VMA_ANON_NAME	0
#endif

#define NAME	"OTEL_CTX"
#define VERSION	2

struct header {
	char signature[8];	/* stored last */
	uint32_t version;
	uint32_t size;
	uint64_t published;	/* CLOCK_BOOTTIME, in ns */
	const char *payload;
};

/*
 * Of ProcessContext, the field `attributes` twice: each a KeyValue of a key and an AnyValue, which
 * is a string, or an array of such. Protocol buffers: field and type, length, bytes.
 */
static const char payload[] =
	"\x12\x2e" "\x0a\x1a" "threadlocal.schema_version"
		"\x12\x10" "\x0a\x0e" "tlsdesc_v1_dev"
	"\x12\x3d" "\x0a\x1d" "threadlocal.attribute_key_map"
		"\x12\x1c" "\x2a\x1a" "\x0a\x0a" "\x0a\x08" "fiber.id"
				      "\x0a\x0c" "\x0a\x0a" "fiber.name";

/* Whether a mapping of that name is there. Calls no function that allocates: a forked child asks. */
static bool published(void)
{
	static const char name[] = "memfd:" NAME, other[] = "anon_shmem:" NAME;
	int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	size_t kept = 0;
	char text[4096];
	bool found = false;
	ssize_t more;

	if (file < 0)
		return false;
	while (!found && (more = read(file, text + kept, sizeof(text) - kept)) > 0) {
		kept += (size_t)more;
		found = memmem(text, kept, name, sizeof(name) - 1) ||
			memmem(text, kept, other, sizeof(other) - 1);
		/* The name may be cut in two. */
		if (kept > sizeof(other)) {
			memmove(text, text + kept - sizeof(other), sizeof(other));
			kept = sizeof(other);
		}
	}
	close(file);
	return found;
}

int otel_process_publish(void)
{
	struct timespec now;
	struct header *header;
	int file;

	if (published())
		return EEXIST;
	file = memfd_create(NAME, MFD_CLOEXEC);
	if (file >= 0 && ftruncate(file, sizeof(*header))) {
		close(file);
		file = -1;
	}
	header = mmap(NULL, sizeof(*header), PROT_READ | PROT_WRITE,
		      file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE, file, 0);
	if (file >= 0)
		close(file);
	if (header == MAP_FAILED)
		return ENOMEM;
	/* A child publishes its own. */
	madvise(header, sizeof(*header), MADV_DONTFORK);
	clock_gettime(CLOCK_BOOTTIME, &now);
	header->version = VERSION;
	header->size = sizeof(payload) - 1;
	header->published = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	header->payload = payload;
	atomic_thread_fence(memory_order_seq_cst);
	memcpy(header->signature, NAME, sizeof(header->signature));
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, header, sizeof(*header), NAME);
	return 0;
}
