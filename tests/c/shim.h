/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Between the library and the C library, for test programs: every allocation and every system call
 * of the library goes through shim.c (see build), which
 *
 * - makes the n-th call of a function fail with an errno,
 * - aborts when the library touches a range, a descriptor or a path that is not its own,
 * - counts what the library has, so that a leak shows,
 * - lets a test hand out contents of its own for the kernel's files.
 *
 * Calls of the test program itself are not watched.
 */
#ifndef HOSTMEM_TEST_SHIM_H
#define HOSTMEM_TEST_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* At most so many errnos are likely of one call. */
#define SHIM_ERRORS_MAX 8

/* A call that can be made to fail. */
struct shim_call {
	const char *name;
	/* Its likely errnos, ended by 0. */
	int errors[SHIM_ERRORS_MAX];
};

/* The calls, ended by a name of NULL. */
extern const struct shim_call shim_calls[];

/* ---- Faults ---- */

/* Makes the nth call (from 1) of shim_calls[call] fail with this errno, once. */
void shim_arm(size_t call, uint64_t nth, int error);
/* Makes another call fail after the armed one has: the nth from there on. Call it before shim_arm.
 */
void shim_arm_second(size_t call, uint64_t nth, int error);
/* Whether the first failed since; nothing fails any more. */
bool shim_disarm(void);
/* How often a call was made between arming and disarming. */
size_t shim_count_armed(size_t call);
/* Of the time between the first failure and disarming: whether the second failed, and how often a
 * call was made. */
bool shim_second_failed(void);
size_t shim_count_since(size_t call);
/*
 * Where a fixed mapping was made to fail, another mapping is put in its place, as another thread
 * would: whether all of those are as they were. Takes them away.
 */
bool shim_bystanders_are_whole(void);
/* Unmaps, or removes, what the library could not because that call was made to fail. */
void shim_unmap_stuck(void);
/* Returns whether there was something to remove. */
bool shim_remove_stuck(void);

/* ---- What the library has ---- */

struct shim_count {
	size_t ranges, bytes, descriptors, files, threads, allocations;
	/* Of files and POSIX shared memory that it made and did not remove. */
	size_t names;
};

struct shim_count shim_count(void);
/* Removes all that the library made and has not removed; whether there was any. */
bool shim_remove_names(void);
/* Names that the library made and leaves are not its own any more. */
void shim_forget_names(void);
/* From now on the library may use descriptors of the program, as saving does, but not close them.
 */
void shim_lend_descriptors(void);
/* No pattern is kept beside what is mapped from now on. */
void shim_leave_out_neighbours(void);
/* From now on a larger mapping fails with ENOMEM. */
void shim_limit_mappings(size_t bytes);

/* ---- Contents of the kernel's files ---- */

/*
 * Is asked for each file that is opened for reading: a descriptor that is read in its place, or
 * SHIM_REAL for the real one, or -errno.
 */
#define SHIM_REAL (-1000)
extern int (*shim_open_instead)(const char *path);
/* Is called before each path is opened, as another process may change it in this moment. */
extern void (*shim_before_open)(const char *path);

#endif
