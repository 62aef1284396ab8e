/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a forked child is told. It has what objects know, but neither the memory (MADV_DONTFORK) nor
 * the threads of the process that completed them; and a lock that another thread held when it was
 * forked is never free there, so this is looked at before any is taken.
 */
#include "object.h"

bool hm_process_is_forked(const _Atomic pid_t *completer)
{
	pid_t process = atomic_load(completer);

	return process && process != hm_os_process();
}

int hm_process_check(const struct hostmem_backend *backend, const char *what,
		     struct hostmem_error *err)
{
	if (!hm_process_is_forked(&backend->process))
		return 0;
	return hm_fail(err, HOSTMEM_ERROR_STATE, 0,
		       "%s: %s: memory and preallocation belong to the process that completed the "
		       "backend, not to its forked children",
		       backend->id, what);
}
