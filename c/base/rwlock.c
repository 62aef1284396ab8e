/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A reader-writer lock where a waiting writer goes before new readers. POSIX leaves that open, and
 * threads that take the lock for one chunk after the other would keep a writer out for ever.
 */
#include "base.h"

void hm_rwlock_init(struct hm_rwlock *rwlock)
{
	atomic_init(&rwlock->writer_waits, false);
	pthread_mutex_init(&rwlock->writers, NULL);
	pthread_rwlock_init(&rwlock->lock, NULL);
}

void hm_rwlock_destroy(struct hm_rwlock *rwlock)
{
	pthread_rwlock_destroy(&rwlock->lock);
	pthread_mutex_destroy(&rwlock->writers);
}

void hm_rwlock_read(struct hm_rwlock *rwlock)
{
	/* The common case touches one cache line: readers come from all CPUs. */
	if (atomic_load(&rwlock->writer_waits)) {
		pthread_mutex_lock(&rwlock->writers);
		pthread_mutex_unlock(&rwlock->writers);
	}
	pthread_rwlock_rdlock(&rwlock->lock);
}

void hm_rwlock_write(struct hm_rwlock *rwlock)
{
	pthread_mutex_lock(&rwlock->writers);
	atomic_store(&rwlock->writer_waits, true);
	pthread_rwlock_wrlock(&rwlock->lock);
	atomic_store(&rwlock->writer_waits, false);
	pthread_mutex_unlock(&rwlock->writers);
}

void hm_rwlock_unlock(struct hm_rwlock *rwlock)
{
	pthread_rwlock_unlock(&rwlock->lock);
}
