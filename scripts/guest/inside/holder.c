// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps pages on the device: holder PAGES. Moves as many to /dev/hmm_dmirror0, says so, and waits
 * to be killed. It never touches them again, so that they stay where others put them.
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

int main(int argc, char **argv)
{
	size_t pages = argc == 2 ? strtoul(argv[1], NULL, 0) : 0;
	size_t size = pages * sysconf(_SC_PAGESIZE);
	struct dmirror_cmd cmd = { 0 };
	int fd = open("/dev/hmm_dmirror0", O_RDWR);
	char *memory, *view;

	if (!pages) {
		fprintf(stderr, "usage: holder PAGES\n");
		return 2;
	}
	/* A mapping by itself, whatever is next to it. */
	memory = mmap(NULL, 3 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	view = malloc(size);
	if (fd < 0 || memory == MAP_FAILED || !view) {
		perror("holder");
		return 1;
	}
	memory += size;
	if (mprotect(memory, size, PROT_READ | PROT_WRITE)) {
		perror("mprotect");
		return 1;
	}
	memset(memory, 7, size);
	cmd.addr = (uintptr_t)memory;
	cmd.ptr = (uintptr_t)view;
	cmd.npages = pages;
	if (ioctl(fd, DMIRROR_MIGRATE_TO_DEV, &cmd)) {
		perror("MIGRATE_TO_DEV");
		return 1;
	}
	printf("holds %llu pages at %p\n", (unsigned long long)cmd.cpages, (void *)memory);
	fflush(stdout);
	for (;;)
		pause();
}
