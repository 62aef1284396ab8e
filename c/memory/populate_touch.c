/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Populating by touching each page, for kernels before 5.14, which cannot be asked to: and with it
 * the only signal code of the library. A page that cannot be had is a SIGBUS, which becomes -EFAULT
 * here. While ranges are touched the process has our handler; a SIGBUS that is not ours goes on to
 * the program's.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#include "memory.h"

/* Ranges that are touched at once; more wait for their turn. */
#define MOST_RANGES 256

/* One range, by whom it is touched and where that goes on after a SIGBUS. */
struct touch {
	_Atomic uintptr_t first, end;
	pthread_t thread;
	sigjmp_buf jump;
};

/* How often a program may put a handler of its own over ours before we come to the last one. */
#define MOST_LAYERS 8

/* A signal has one handler in a process, so this is the one place with state of the process. */
static struct {
	pthread_mutex_t lock;
	/* How many need the handler; the first installs it, the last restores the program's. */
	unsigned int users;
	/*
	 * Which of our handlers is in use. One that the program has put its own over stays behind
	 * that for good, since it may be called by it: in use again it would call the program's,
	 * and that us, without end.
	 */
	unsigned int layer;
	/* What the program had before each. */
	struct sigaction program[MOST_LAYERS];
	_Atomic bool taken[MOST_RANGES];
	struct touch touches[MOST_RANGES];
} guard = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* The range that this thread touches at the address; NULL when it is none of ours. */
static struct touch *find_touch(uintptr_t address)
{
	for (size_t i = 0; i < MOST_RANGES; i++) {
		struct touch *touch = &guard.touches[i];

		if (address >= atomic_load(&touch->first) && address < atomic_load(&touch->end) &&
		    pthread_equal(touch->thread, pthread_self()))
			return touch;
	}
	return NULL;
}

/* Whether an access raised it, and nobody sent it. */
static bool is_fault(const siginfo_t *info)
{
	return info->si_code > 0 && info->si_code != BUS_MCEERR_AO;
}

/* The default is the end, at once where somebody sent it, else when the fault happens again. */
static void end_by_default(int number, const siginfo_t *info, struct sigaction program)
{
	program.sa_handler = SIG_DFL;
	program.sa_flags &= ~SA_SIGINFO;
	sigaction(number, &program, NULL);
	if (!is_fault(info))
		raise(number);
}

/* As if our handler was not there. */
static void forward(const struct sigaction *program, int number, siginfo_t *info, void *context)
{
	if (program->sa_flags & SA_SIGINFO)
		program->sa_sigaction(number, info, context);
	else if (program->sa_handler == SIG_IGN && !is_fault(info))
		return;
	else if (program->sa_handler == SIG_DFL || program->sa_handler == SIG_IGN)
		end_by_default(number, info, *program);
	else
		program->sa_handler(number);
}

static void handle(unsigned int layer, int number, siginfo_t *info, void *context)
{
	struct touch *touch = is_fault(info) ? find_touch((uintptr_t)info->si_addr) : NULL;

	if (touch)
		siglongjmp(touch->jump, 1);
	forward(&guard.program[layer], number, info, context);
}

/* A handler knows its layer by nothing but its own address. */
#define DEFINE_HANDLER(layer)                                                                      \
	static void handle_##layer(int number, siginfo_t *info, void *context)                     \
	{                                                                                          \
		handle(layer, number, info, context);                                              \
	}
DEFINE_HANDLER(0)
DEFINE_HANDLER(1)
DEFINE_HANDLER(2)
DEFINE_HANDLER(3)
DEFINE_HANDLER(4)
DEFINE_HANDLER(5)
DEFINE_HANDLER(6)
DEFINE_HANDLER(7)

static void (*const handlers[MOST_LAYERS])(int, siginfo_t *, void *) = {
	handle_0, handle_1, handle_2, handle_3, handle_4, handle_5, handle_6, handle_7,
};

static void acquire_handler(void)
{
	struct sigaction ours = { .sa_flags = SA_SIGINFO | SA_ONSTACK };

	pthread_mutex_lock(&guard.lock);
	if (!guard.users++) {
		ours.sa_sigaction = handlers[guard.layer];
		sigemptyset(&ours.sa_mask);
		/* Known before it can be forwarded to, and again in case it was changed since. */
		sigaction(SIGBUS, NULL, &guard.program[guard.layer]);
		sigaction(SIGBUS, &ours, &guard.program[guard.layer]);
	}
	pthread_mutex_unlock(&guard.lock);
}

/* Whether our handler was the process's to the end; one that the program has put over it stays. */
static bool restore_program(void)
{
	struct sigaction now;

	if (sigaction(SIGBUS, NULL, &now) || !(now.sa_flags & SA_SIGINFO) ||
	    now.sa_sigaction != handlers[guard.layer])
		return false;
	sigaction(SIGBUS, &guard.program[guard.layer], NULL);
	return true;
}

static void release_handler(void)
{
	pthread_mutex_lock(&guard.lock);
	if (!--guard.users && !restore_program() && guard.layer < MOST_LAYERS - 1)
		guard.layer++;
	pthread_mutex_unlock(&guard.lock);
}

static struct touch *take_touch(size_t *index)
{
	for (;;) {
		for (*index = 0; *index < MOST_RANGES; (*index)++) {
			if (!atomic_exchange(&guard.taken[*index], true))
				return &guard.touches[*index];
		}
		sched_yield();
	}
}

/* Writes what is there, in one step, so that a guest's own write is never lost. */
static void touch_pages(uint8_t *address, uint64_t size, uint64_t page, bool readonly)
{
	for (uint64_t offset = 0; offset < size; offset += page) {
		if (readonly)
			(void)*(volatile uint8_t *)(address + offset);
		else
			__atomic_fetch_or(address + offset, 0, __ATOMIC_RELAXED);
	}
}

int hm_populate_touch(uint8_t *address, uint64_t size, uint64_t page, bool readonly)
{
	sigset_t bus, before;
	struct touch *touch;
	size_t index;
	volatile int result = 0;

	acquire_handler();
	touch = take_touch(&index);
	touch->thread = pthread_self();
	/* A blocked SIGBUS of one's own making ends the process. */
	sigemptyset(&bus);
	sigaddset(&bus, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &bus, &before);
	if (!sigsetjmp(touch->jump, 1)) {
		atomic_store(&touch->end, (uintptr_t)address + size);
		atomic_store(&touch->first, (uintptr_t)address);
		touch_pages(address, size, page, readonly);
	} else {
		result = -EFAULT;
	}
	atomic_store(&touch->first, UINTPTR_MAX);
	atomic_store(&touch->end, 0);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	atomic_store(&guard.taken[index], false);
	release_handler();
	return result;
}
