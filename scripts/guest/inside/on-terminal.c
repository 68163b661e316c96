// SPDX-License-Identifier: GPL-2.0
/*
 * Runs a program on a terminal of its own: on-terminal KEYS PROGRAM… It has 100 columns and 30
 * lines; with UNSIZED in the environment it does not know how many. Types the keys, and prints what the program prints. Exits as the program does.
 */
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int is_sized = !getenv("UNSIZED");
	struct winsize size = { .ws_row = 30 * is_sized, .ws_col = 100 * is_sized };
	char bytes[4096];
	int terminal, status;
	ssize_t count;
	pid_t pid;

	if (argc < 3) {
		fprintf(stderr, "usage: on-terminal KEYS PROGRAM...\n");
		return 2;
	}
	pid = forkpty(&terminal, NULL, NULL, &size);
	if (pid < 0) {
		perror("forkpty");
		return 1;
	}
	if (pid == 0) {
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(127);
	}
	if (write(terminal, argv[1], strlen(argv[1])) < 0)
		perror("keys");
	/* Fails with EIO when the program has closed its end. */
	while ((count = read(terminal, bytes, sizeof(bytes))) > 0)
		if (write(1, bytes, count) < 0)
			break;
	if (waitpid(pid, &status, 0) != pid)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
