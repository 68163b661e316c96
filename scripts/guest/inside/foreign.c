// SPDX-License-Identifier: GPL-2.0
/*
 * A foreign program: plain C, static, no library of ours, the ABI from
 * rust/uapi/dmirror.h. It moves pages to the device and back, once by CPU
 * reads and once by request, and looks at every byte and at /proc/self/pagemap.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dmirror.h"

#define NPAGES 64UL

static long page_size;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static unsigned char byte_at(size_t offset)
{
	return (unsigned char)(offset * 31 + offset / 4096);
}

static void check_bytes(const char *what, const unsigned char *bytes)
{
	for (size_t i = 0; i < NPAGES * page_size; i++) {
		if (bytes[i] == byte_at(i))
			continue;
		fprintf(stderr, "%s: byte %zu is %#x, not %#x\n", what, i,
			bytes[i], byte_at(i));
		exit(1);
	}
}

/* Pages that pagemap calls swapped: nothing else swaps in this guest. */
static unsigned long pages_away(const void *start)
{
	uint64_t entries[NPAGES];
	off_t offset = (uintptr_t)start / page_size * sizeof(entries[0]);
	unsigned long count = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || pread(fd, entries, sizeof(entries), offset) != sizeof(entries))
		fail("/proc/self/pagemap");
	close(fd);
	for (unsigned long i = 0; i < NPAGES; i++)
		count += entries[i] >> 62 & 1;
	return count;
}

static void expect_away(const char *what, const void *start, unsigned long expected)
{
	unsigned long away = pages_away(start);

	printf("%-28s %2lu of %lu pages on the device\n", what, away, NPAGES);
	if (away == expected)
		return;
	fprintf(stderr, "%s: expected %lu\n", what, expected);
	exit(1);
}

int main(void)
{
	struct dmirror_cmd cmd = { .npages = NPAGES };
	unsigned char *memory, *seen;
	size_t size;
	int fd;

	page_size = sysconf(_SC_PAGESIZE);
	size = NPAGES * page_size;
	fd = open("/dev/hmm_dmirror0", O_RDWR);
	if (fd < 0)
		fail("/dev/hmm_dmirror0");
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	seen = malloc(size);
	if (memory == MAP_FAILED || !seen)
		fail("memory");
	for (size_t i = 0; i < size; i++)
		memory[i] = byte_at(i);
	expect_away("written by the CPU:", memory, 0);

	cmd.addr = (uintptr_t)memory;
	for (int round = 0; round < 2; round++) {
		memset(seen, 0, size);
		cmd.ptr = (uintptr_t)seen;
		if (ioctl(fd, DMIRROR_MIGRATE_TO_DEV, &cmd))
			fail("DMIRROR_MIGRATE_TO_DEV");
		expect_away("moved to the device:", memory, NPAGES);
		check_bytes("as the device sees it", seen);

		if (round == 0) {
			check_bytes("read by the CPU", memory);
			expect_away("read by the CPU:", memory, 0);
			continue;
		}
		if (ioctl(fd, DMIRROR_MIGRATE_TO_SYS, &cmd))
			fail("DMIRROR_MIGRATE_TO_SYS");
		if (cmd.cpages != NPAGES) {
			fprintf(stderr, "cpages is %llu\n", (unsigned long long)cmd.cpages);
			return 1;
		}
		expect_away("moved back by request:", memory, 0);
		check_bytes("moved back by request", memory);
	}
	puts("all bytes are right");
	return 0;
}
