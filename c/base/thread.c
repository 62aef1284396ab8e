/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How threads of the library begin: with a small stack, a name, without the program's signals, and
 * several of them on different CPUs. What they do is their creator's. And what a forked child,
 * which does not have them, does with the locks that they held.
 */
#include <sched.h>
#include <signal.h>
#include <stdio.h>

#include "base.h"

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

/* By a condition that nobody signals: needs no system call that the library does not make anyway.
 */
void hm_thread_sleep(uint64_t nanoseconds)
{
	struct timespec until = hm_os_deadline(nanoseconds);
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_condattr_t attributes;
	pthread_cond_t never;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&never, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_lock(&lock);
	pthread_cond_timedwait(&never, &lock, &until);
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&never);
	pthread_mutex_destroy(&lock);
}

static uint32_t next_cpu(const struct hm_set *cpus, uint32_t cpu)
{
	do
		cpu = (cpu + 1) % HOSTMEM_CPUS_MAX;
	while (!hm_set_has(cpus, cpu));
	return cpu;
}

/* Of a thread whose id in the kernel only the C library knows. */
static int set_affinity(pthread_t thread, const struct hm_set *cpus)
{
	return pthread_setaffinity_np(thread, sizeof(*cpus), (const cpu_set_t *)cpus);
}

/* Leaves the thread free to go on. That it may not be moved is no error: it has begun somewhere. */
static void move(pthread_t thread, uint32_t cpu, const struct hm_set *cpus)
{
	struct hm_set one = { 0 };

	hm_set_add(&one, cpu);
	if (!set_affinity(thread, &one))
		set_affinity(thread, cpus);
}

/*
 * Linux may begin two new threads on one CPU and leave another idle until it balances its load:
 * 15 ms of it were seen on 6.18. With fewer threads than CPUs it knows better which are idle.
 */
static void spread(const struct hm_creation *creation)
{
	struct hm_set cpus;
	size_t count;
	uint32_t cpu;
	int own;

	if (creation->no_spread)
		return;
	own = hm_os_cpu();
	cpu = own < 0 ? 0 : (uint32_t)own;
	if (creation->cpus)
		cpus = *creation->cpus;
	else if (hm_os_get_affinity(0, &cpus) < 0)
		return;
	count = hm_set_count(&cpus);
	if (!count || creation->created + (uint64_t)creation->beside_caller < count)
		return;
	for (uint32_t i = 0; i < creation->created; i++) {
		cpu = next_cpu(&cpus, cpu);
		move(creation->threads[i], cpu, &cpus);
	}
}

void hm_thread_create_all(struct hm_creation *creation)
{
	while (creation->created < creation->wanted && !creation->error) {
		creation->error = hm_thread_create(&creation->threads[creation->created],
						   creation->run, creation->data);
		creation->created += !creation->error;
	}
	spread(creation);
}

void hm_thread_name(const char *id)
{
	char name[HOSTMEM_ID_MAX + 8];

	snprintf(name, sizeof(name), "hm-%s", id);
	hm_os_set_thread_name(name);
}

/* ---- Forked children ---- */

/* *process is negative while a thread of that process renews. */
void hm_thread_enter(_Atomic pid_t *process, void (*renew)(void *record), void *record)
{
	pid_t own = hm_os_process(), last = atomic_load(process);

	while (last != own) {
		if (last == -own) {
			sched_yield();
			last = atomic_load(process);
		} else if (atomic_compare_exchange_strong(process, &last, -own)) {
			renew(record);
			atomic_store(process, own);
			return;
		}
	}
}
