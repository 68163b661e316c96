// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps pages on the device: holder PAGES. Moves as many to /dev/hmm_dmirror0, says so, and waits
 * to be killed. It never touches them again, so that they stay where others put them. With
 * `holder PAGES pinned` they are in system memory, and a pipe holds the first, which cannot move.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "dmirror.h"

int main(int argc, char **argv)
{
	int pinned = argc == 3 && !strcmp(argv[2], "pinned");
	size_t pages = argc == 2 || pinned ? strtoul(argv[1], NULL, 0) : 0;
	size_t size = pages * sysconf(_SC_PAGESIZE);
	struct dmirror_cmd cmd = { 0 };
	int fd = open("/dev/hmm_dmirror0", O_RDWR), ends[2];
	struct iovec first = { .iov_len = 1 };
	char *memory, *view;

	if (!pages) {
		fprintf(stderr, "usage: holder PAGES [pinned]\n");
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
	if (pinned) {
		first.iov_base = memory;
		if (pipe(ends) || vmsplice(ends[1], &first, 1, 0) != 1) {
			perror("vmsplice");
			return 1;
		}
	} else {
		cmd.addr = (uintptr_t)memory;
		cmd.ptr = (uintptr_t)view;
		cmd.npages = pages;
		if (ioctl(fd, DMIRROR_MIGRATE_TO_DEV, &cmd)) {
			perror("MIGRATE_TO_DEV");
			return 1;
		}
	}
	printf("holds %zu pages at %p\n", pages, (void *)memory);
	fflush(stdout);
	for (;;)
		pause();
}
