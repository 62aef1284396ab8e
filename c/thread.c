/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How a thread of the library begins: with a small stack, a name, and without the program's
 * signals. What it does is its creator's.
 */
#include <signal.h>
#include <stdio.h>

#include "internal.h"

#define STACK_SIZE (256 * 1024)

/* Signals are the program's business: workers take only those that their own faults raise. */
static void block_signals(sigset_t *before)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
	sigset_t blocked;

	sigfillset(&blocked);
	for (size_t i = 0; i < HM_ARRAY_LEN(faults); i++)
		sigdelset(&blocked, faults[i]);
	pthread_sigmask(SIG_SETMASK, &blocked, before);
}

int hm_thread_create(pthread_t *thread, void *(*run)(void *), void *data)
{
	pthread_attr_t attributes;
	sigset_t before;
	int result = pthread_attr_init(&attributes);

	if (result)
		return -result;
	pthread_attr_setstacksize(&attributes, STACK_SIZE);
	block_signals(&before);
	result = pthread_create(thread, &attributes, run, data);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return -result;
}

void hm_thread_name(const char *id)
{
	char name[HOSTMEM_ID_MAX + 8];

	snprintf(name, sizeof(name), "hm-%s", id);
	hm_os_set_thread_name(name);
}
