// SPDX-License-Identifier: GPL-2.0
/*
 * What dmirror move and dmirror run work on, and must not disturb:
 *
 *   target waits           a process in each of many system calls, and one in none; it prints them,
 *                          and on SIGUSR1 gives each what it waits for, and says what that got
 *   target sleeps SECONDS  sleeps, and then waits as long in poll()
 *   target forks           threads that fork; until SIGTERM it counts children with a device open
 *   target boxed HOW       a sandbox that answers opening and mapping by errno, trap or kill, or
 *                          allows nothing at all (strict); reads a line, and then looks around
 *   target stops COUNT     children that are stopped and continued as they begin
 *
 * Exits with 0 if all was as it should be.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void on_signal(int signal)
{
	(void)signal;
	signals++;
}

/* Without SA_RESTART, so that a system call ends when the handler has run. */
static void handle(int signal)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(signal, &action, NULL);
}

static void block(int how, int signal)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signal);
	sigprocmask(how, &set, NULL);
}

static void must(int is_right, const char *what)
{
	if (is_right)
		return;
	perror(what);
	exit(1);
}

/* What a waiting child has: the end of a pipe, and a word that it shares with its parent. */
struct waiting {
	int pipe;
	volatile uint32_t *word;
};

static int wait_read(struct waiting *w)
{
	char byte;

	return read(w->pipe, &byte, 1) == 1;
}

static int wait_read_with_handler(struct waiting *w)
{
	handle(SIGUSR2);
	return wait_read(w) && signals == 0;
}

static int wait_poll(struct waiting *w)
{
	struct pollfd fd = { .fd = w->pipe, .events = POLLIN };

	return poll(&fd, 1, -1) == 1;
}

static int wait_poll_timeout(struct waiting *w)
{
	struct pollfd fd = { .fd = w->pipe, .events = POLLIN };

	return poll(&fd, 1, 3600 * 1000) == 1;
}

static int wait_pselect(struct waiting *w)
{
	sigset_t none;
	fd_set set;

	sigemptyset(&none);
	FD_ZERO(&set);
	FD_SET(w->pipe, &set);
	return pselect(w->pipe + 1, &set, NULL, NULL, NULL, &none) == 1;
}

static int wait_futex(struct waiting *w)
{
	return syscall(SYS_futex, w->word, FUTEX_WAIT, 0, NULL) == 0;
}

static int wait_futex_timeout(struct waiting *w)
{
	struct timespec hour = { .tv_sec = 3600 };

	return syscall(SYS_futex, w->word, FUTEX_WAIT, 0, &hour) == 0;
}

static int wait_pause(struct waiting *w)
{
	(void)w;
	handle(SIGUSR2);
	return pause() == -1 && errno == EINTR && signals == 1;
}

static int wait_sigsuspend(struct waiting *w)
{
	sigset_t none;

	(void)w;
	handle(SIGUSR2);
	block(SIG_BLOCK, SIGUSR2);
	sigemptyset(&none);
	if (sigsuspend(&none) != -1 || errno != EINTR || signals != 1)
		return 0;
	/* It is blocked again. */
	raise(SIGUSR2);
	return signals == 1;
}

static int wait_nanosleep(struct waiting *w)
{
	struct timespec hour = { .tv_sec = 3600 }, rest = { 0 };

	(void)w;
	handle(SIGUSR2);
	return nanosleep(&hour, &rest) == -1 && errno == EINTR && signals == 1 && rest.tv_sec < 3600;
}

static int wait_child(struct waiting *w)
{
	int status;
	pid_t child = fork();

	if (child == 0)
		_exit(wait_read(w) ? 7 : 8);
	return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7;
}

/* Values in many registers, on all of which the result depends. */
static double mixed(void)
{
	uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8;
	double x = 0.5, y = 0.25;

	for (int i = 0; i < 100000; i++) {
		a = a * 6364136223846793005 + h, b ^= a >> 7, c += b * 3, d ^= c << 3;
		e += d ^ a, f = f * 31 + e, g ^= f >> 5, h += g;
		x = 3.9 * x * (1 - x), y = y * 0.5 + x;
	}
	return (double)(a ^ b ^ c ^ d ^ e ^ f ^ g ^ h) + x + y;
}

static int wait_computing(struct waiting *w)
{
	double first = mixed();

	while (!*w->word)
		if (mixed() != first)
			return 0;
	return 1;
}

static int wait_calling(struct waiting *w)
{
	pid_t parent = getppid();

	while (!*w->word)
		if (getppid() != parent || lseek(-1, 0, SEEK_SET) != -1 || errno != EBADF)
			return 0;
	return 1;
}

/* How it waits, and whether a signal is what it waits for. */
static const struct {
	const char *name;
	int (*wait)(struct waiting *w);
	int signal;
} waits[] = {
	{ "read", wait_read, 0 },
	{ "read_with_handler", wait_read_with_handler, 0 },
	{ "poll", wait_poll, 0 },
	{ "poll_timeout", wait_poll_timeout, 0 },
	{ "pselect", wait_pselect, 0 },
	{ "futex", wait_futex, 0 },
	{ "futex_timeout", wait_futex_timeout, 0 },
	{ "pause", wait_pause, SIGUSR2 },
	{ "sigsuspend", wait_sigsuspend, SIGUSR2 },
	{ "nanosleep", wait_nanosleep, SIGUSR2 },
	{ "child", wait_child, 0 },
	{ "computing", wait_computing, 0 },
	{ "calling", wait_calling, 0 },
};
#define WAITS (sizeof(waits) / sizeof(waits[0]))

static int run_waits(void)
{
	const int flags = MAP_SHARED | MAP_ANONYMOUS;
	volatile uint32_t *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
	pid_t children[WAITS];
	int ends[WAITS][2], status, failed = 0, got;
	sigset_t go;

	must(words != MAP_FAILED, "mmap");
	sigemptyset(&go);
	sigaddset(&go, SIGUSR1);
	sigprocmask(SIG_BLOCK, &go, NULL);
	for (size_t i = 0; i < WAITS; i++) {
		struct waiting waiting = { .word = &words[i] };

		must(pipe(ends[i]) == 0, "pipe");
		children[i] = fork();
		waiting.pipe = ends[i][0];
		if (children[i] == 0)
			_exit(waits[i].wait(&waiting) ? 0 : 1);
		printf("pid %d %s\n", children[i], waits[i].name);
	}
	puts("ready");
	fflush(stdout);
	sigwait(&go, &got);
	for (size_t i = 0; i < WAITS; i++) {
		words[i] = 1;
		if (waits[i].signal)
			kill(children[i], waits[i].signal);
		else
			must(write(ends[i][1], "x", 1) == 1, "write");
		syscall(SYS_futex, &words[i], FUTEX_WAKE, 1);
		must(waitpid(children[i], &status, 0) == children[i], "waitpid");
		printf("%s %s\n", waits[i].name, status ? "failed" : "ok");
		failed |= status;
	}
	return failed != 0;
}

static int run_sleeps(int seconds)
{
	struct timespec time = { .tv_sec = seconds };

	puts("ready");
	fflush(stdout);
	must(nanosleep(&time, NULL) == 0, "nanosleep");
	must(poll(NULL, 0, seconds * 1000) == 0, "poll");
	puts("done");
	return 0;
}

static dev_t device;
static volatile int leaks, forks;

static int has_device(void)
{
	struct stat file;

	for (int fd = 3; fd < 64; fd++)
		if (fstat(fd, &file) == 0 && S_ISCHR(file.st_mode) && file.st_rdev == device)
			return 1;
	return 0;
}

static void *fork_on(void *nothing)
{
	int status;

	for (;;) {
		pid_t child = fork();

		if (child == 0)
			_exit(has_device());
		must(child > 0, "fork");
		while (waitpid(child, &status, 0) != child)
			must(errno == EINTR, "waitpid");
		must(WIFEXITED(status), "a child");
		leaks += WEXITSTATUS(status);
		forks++;
	}
	return nothing;
}

static int run_forks(void)
{
	struct stat file;
	pthread_t thread;

	must(stat("/dev/hmm_dmirror0", &file) == 0, "/dev/hmm_dmirror0");
	device = file.st_rdev;
	handle(SIGTERM);
	must(pthread_create(&thread, NULL, fork_on, NULL) == 0, "pthread_create");
	puts("ready");
	fflush(stdout);
	while (!signals)
		usleep(1000);
	printf("%d children of %d had the device open\n", leaks, forks);
	return leaks != 0 || has_device();
}

static const struct {
	const char *name;
	uint32_t answer;
} boxes[] = {
	{ "errno", SECCOMP_RET_ERRNO | ENOSYS },
	{ "trap", SECCOMP_RET_TRAP },
	{ "kill", SECCOMP_RET_KILL_PROCESS },
};

static void box(const char *how)
{
	uint32_t answer = 0;

	for (size_t i = 0; i < sizeof(boxes) / sizeof(boxes[0]); i++)
		if (!strcmp(how, boxes[i].name))
			answer = boxes[i].answer;
	must(answer != 0, how);

	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, answer),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(filter) / sizeof(filter[0]), .filter = filter };

	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "NO_NEW_PRIVS");
	must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
}

static int run_boxed(const char *how)
{
	int status;
	char byte;
	pid_t child;

	handle(SIGSYS);
	puts("ready");
	fflush(stdout);
	if (!strcmp(how, "strict")) {
		must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0, "seccomp");
		(void)!read(0, &byte, 1);
		syscall(SYS_exit, 0);
	}
	box(how);
	(void)!read(0, &byte, 1);
	/* What others wanted is none of the handler's business. */
	must(signals == 0, "the handler ran");
	child = fork();
	if (child == 0)
		_exit(signals == 0 ? 7 : 8);
	must(waitpid(child, &status, 0) == child, "waitpid");
	if (WIFSIGNALED(status))
		printf("the child was ended by signal %d\n", WTERMSIG(status));
	else
		printf("the child exited with %d\n", WEXITSTATUS(status));
	if (!strcmp(how, "trap")) {
		/* The handler is still there. */
		open("/dev/null", O_RDONLY);
		must(signals == 1, "the handler did not run");
	}
	return 0;
}

static int run_stops(int count)
{
	int ends[2], status;
	char byte;

	must(pipe(ends) == 0, "pipe");
	while (count-- > 0) {
		pid_t child = fork();

		if (child == 0)
			_exit(read(ends[0], &byte, 1) == 1 ? 0 : 1);
		must(child > 0, "fork");
		/* First the two in a row, then with a look between them. */
		must(kill(child, SIGSTOP) == 0 && kill(child, SIGCONT) == 0, "kill");
		must(kill(child, SIGSTOP) == 0, "kill");
		do
			must(waitpid(child, &status, WUNTRACED | WCONTINUED) == child, "waitpid");
		while (WIFCONTINUED(status));
		must(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP, "it did not stop");
		must(kill(child, SIGCONT) == 0, "kill");
		must(write(ends[1], "x", 1) == 1, "write");
		do
			must(waitpid(child, &status, 0) == child, "waitpid");
		while (WIFSTOPPED(status));
		must(WIFEXITED(status) && WEXITSTATUS(status) == 0, "it did not end");
	}
	puts("done");
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "waits"))
		return run_waits();
	if (!strcmp(what, "sleeps") && argc == 3)
		return run_sleeps(atoi(argv[2]));
	if (!strcmp(what, "forks"))
		return run_forks();
	if (!strcmp(what, "boxed") && argc == 3)
		return run_boxed(argv[2]);
	if (!strcmp(what, "stops") && argc == 3)
		return run_stops(atoi(argv[2]));
	fprintf(stderr, "usage: target waits | sleeps SECONDS | forks | boxed HOW | stops COUNT\n");
	return 2;
}
