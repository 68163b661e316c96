// SPDX-License-Identifier: GPL-2.0
/*
 * A user of samples/minimal: moves a page to its device, looks for it there in
 * /proc/self/pagemap, and reads it back.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MINIMAL_TO_DEVICE _IO('m', 0)

/* Whether pagemap calls the page swapped: nothing else swaps in this guest. */
static int is_away(const void *page)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	off_t offset = (uintptr_t)page / sysconf(_SC_PAGESIZE) * sizeof(entry);

	if (fd < 0 || pread(fd, &entry, sizeof(entry), offset) != sizeof(entry))
		perror("/proc/self/pagemap");
	close(fd);
	return entry >> 62 & 1;
}

static int expect(const char *what, long is, long should)
{
	printf("%-36s %ld\n", what, is);
	if (is != should)
		fprintf(stderr, "expected %ld\n", should);
	return is == should;
}

int main(void)
{
	long size = sysconf(_SC_PAGESIZE);
	unsigned char *page, copy[65536];
	int fd = open("/dev/hmm_minimal", O_RDWR);

	page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || page == MAP_FAILED) {
		perror("/dev/hmm_minimal");
		return 1;
	}
	for (long i = 0; i < size; i++)
		copy[i] = page[i] = (unsigned char)(i * 7 + i / 256);
	return !(expect("on the device, before:", is_away(page), 0) &&
		 expect("pages that the ioctl moved:", ioctl(fd, MINIMAL_TO_DEVICE, page), 1) &&
		 expect("on the device, then:", is_away(page), 1) &&
		 expect("bytes are the same, after a read:", !memcmp(page, copy, size), 1) &&
		 expect("on the device, after that:", is_away(page), 0));
}
