/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The folder memory: what is done to one range of memory of a backend. Owns no state.
 */
#ifndef HOSTMEM_MEMORY_H
#define HOSTMEM_MEMORY_H

#include "object.h"

/* ---- advise.c ---- */

/* Page merging, dumps and huge pages as the properties say, and MADV_DONTFORK. */
int hm_advise_all(const struct hostmem_backend *backend, const struct hm_values *values,
		  struct hostmem_error *err);
/* asked: whether the user asked for it, so that a kernel that cannot is an error. */
int hm_advise_merge(const struct hostmem_backend *backend, bool merge, bool asked,
		    struct hostmem_error *err);
int hm_advise_dump(const struct hostmem_backend *backend, bool dump, bool asked,
		   struct hostmem_error *err);
int hm_advise_thp(const struct hostmem_backend *backend, enum hm_thp thp,
		  struct hostmem_error *err);
/*
 * Whether this host gives huge pages at all, where they are asked for. What was asked for in time
 * is advised all the same.
 */
int hm_advise_check_thp(const struct hostmem_backend *backend, enum hm_thp thp,
			struct hostmem_error *err);
/* populated: whether the pages are there, so that they are locked now and not on first use. */
int hm_advise_lock(const struct hostmem_backend *backend, bool lock, bool populated,
		   struct hostmem_error *err);

/* ---- policy.c ---- */

/* Whether policy, host nodes and home node go together and this host can do them. */
int hm_policy_check(const struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err);
/* Binds fresh memory. Makes no system call for the default policy. */
int hm_policy_bind(const struct hostmem_backend *backend, const struct hm_values *values,
		   struct hostmem_error *err);
/* Sets policy and home node; flags: HM_NUMA_*. Returns 0 or -errno of *call. */
int hm_policy_set(const struct hostmem_backend *backend, const struct hm_values *values,
		  unsigned int flags, const char **call);
/* The same of other memory, from which pages will be moved to the backend's. */
int hm_policy_set_at(const struct hostmem_backend *backend, const struct hm_values *values,
		     uint8_t *address, size_t size, unsigned int flags, const char **call);
/* Puts what hm_policy_set() returned into words. */
int hm_policy_fail(const struct hostmem_backend *backend, const struct hm_values *values,
		   const char *call, int result, struct hostmem_error *err);
/*
 * Calls run(data) on a thread of ours that has the policy, and returns what that does; on the
 * caller's own, without, where there cannot be one.
 */
int hm_policy_run(const struct hostmem_backend *backend, const struct hm_values *values,
		  int (*run)(void *data), void *data);
/* What the kernel is asked for: preferred is preferred-many wherever that exists. */
enum hm_policy hm_policy_in_kernel(const struct hostmem_backend *backend, uint64_t policy);
/* Whether the memory may only be on the host nodes. */
bool hm_policy_is_strict(const struct hm_values *values);
/* Whether the policy is about nodes. */
bool hm_policy_takes_nodes(uint64_t policy);
/* What /proc/self/numa_maps says where the policy is in force. */
void hm_policy_format(const struct hostmem_backend *backend, const struct hm_values *values,
		      char *text, size_t size);

/* ---- policy_status.c ---- */

/* Bytes on other nodes than a policy names; 0 where it names none. */
uint64_t hm_policy_status_outside(const struct hm_values *values,
				  const struct hostmem_placement *placement);
/*
 * Whether the memory follows the policy of the thread that faults it instead of the mapping's:
 * shared memory of a file on disk, for which the kernel ignores the mapping's policy.
 */
bool hm_policy_follows_threads(const struct hostmem_backend *backend);
/* Fills in whether what was counted satisfies the policy. */
void hm_policy_status_set(const struct hostmem_backend *backend, const struct hm_values *values,
			  struct hostmem_placement *placement);

/* ---- populate.c ---- */

enum hm_populate_way {
	/* MADV_POPULATE alone; every other way ends in it unless it did all there is. */
	HM_POPULATE_PLAIN,
	/* The last base page of each huge page first, so that it is zeroed upwards. */
	HM_POPULATE_LAST_PAGE_FIRST,
	/* Zero pages put into shared memory by userfaultfd(2). */
	HM_POPULATE_ZEROPAGE,
	/* A page in each huge page's place, made huge by MADV_COLLAPSE. */
	HM_POPULATE_COLLAPSE,
	/* Blocks of a disk file first. */
	HM_POPULATE_FALLOCATE,
	/* Pages that a file in shared memory has are mapped many at a time, by MADV_POPULATE_READ.
	 */
	HM_POPULATE_READ_FIRST,
};

/* How the memory of a backend is populated. */
struct hm_populate {
	enum hm_populate_way way;
	uint64_t page_size;
	/* Bytes of the huge pages that the memory is expected to be made of; 0: small pages. */
	uint64_t huge_size;
	/* The file has all of its huge pages, so that they are only mapped. */
	bool filled;
	bool readonly;
	/* Bytes of a page, each of which is touched, where the kernel cannot be asked; else 0. */
	uint64_t touch_size;
	/* The whole memory, and what is mapped there. */
	uint8_t *address;
	uint64_t size;
	int fd;
	uint64_t fd_offset;
	/* Of userfaultfd(2), -1 for none. */
	int fault_fd;
};

void hm_populate_begin(struct hm_populate *plan, const struct hostmem_backend *backend,
		       const struct hm_values *values);
/* Gives up what the way needs; from then on it is the plain one. */
void hm_populate_end(struct hm_populate *plan);
/* Some of a range is not there yet and can only be populated after hm_populate_end(). */
#define HM_POPULATE_AGAIN 1

/*
 * Makes [address, address + size) present, contents untouched. Returns 0, HM_POPULATE_AGAIN or
 * -errno.
 */
int hm_populate_range(const struct hm_populate *plan, uint8_t *address, uint64_t size);

/* ---- discard.c ---- */

/* Each returns 0 or -errno. */
int hm_discard_range(const struct hostmem_backend *backend, const struct hm_range *range);
/* The same of pages that are this mapping's own, locked ones too. */
int hm_discard_pages(const struct hostmem_host *host, uint8_t *address, uint64_t length);

/* ---- scrub.c ---- */

/* How the memory of a backend is scrubbed. */
struct hm_scrub {
	/* For pages that are there, so the plain way. */
	struct hm_populate populate;
	const struct hostmem_host *host;
	/* The whole memory, and what of it is inaccessible. */
	uint8_t *address;
	const struct hm_ranges *inaccessible;
	int fd;
	uint64_t fd_offset;
	/* Of the file, or of a part of a large one. */
	uint64_t file_page;
	bool shared, hugetlb;
	/* Storing to a page that is there cannot fail. */
	bool stores_directly;
	/* Memory of a device (DAX), which is never absent. */
	bool device;
	/* Behind a private mapping there is something. */
	bool has_file;
	/* Blocks of a file on disk were preallocated. */
	bool keeps_blocks;
};

void hm_scrub_begin(struct hm_scrub *scrub, const struct hostmem_backend *backend,
		    const struct hm_values *values);
/* Makes a range of whole pages read as zero. Returns 0 or -errno. */
int hm_scrub_range(const struct hm_scrub *scrub, uint8_t *address, uint64_t size);

/* ---- placement.c ---- */

/*
 * Counts what is mapped on each node, and says whether the policy of `values` is the kernel's; what
 * only smaps tells, and whether the policy is satisfied, is left 0. Returns 0 or -errno.
 */
int hm_placement_count(const struct hostmem_backend *backend, const struct hm_values *values,
		       struct hostmem_placement *placement);
/* Puts what hm_placement_count() returned into words. */
int hm_placement_fail(const struct hostmem_backend *backend, int result, struct hostmem_error *err);
/* All of it but what is unread, which is counted as absent. For memory that stays meanwhile. */
int hm_placement_read(const struct hostmem_backend *backend, const struct hm_values *values,
		      struct hostmem_placement *placement, struct hostmem_error *err);

/* ---- rebind.c ---- */

/*
 * Makes policy, host nodes and home node be those of `new` and moves the pages of memory in use; on
 * failure the old ones are back. flags: enum hostmem_rebind_flag.
 */
int hm_rebind(const struct hostmem_backend *backend, const struct hm_values *old,
	      const struct hm_values *new, uint32_t flags, struct hostmem_rebind_result *rebound,
	      struct hostmem_error *err);

/* ---- mapping.c ---- */

/*
 * Maps the backing, inaccessible, between guard pages, aligned so that huge pages fit. On failure
 * hm_map_destroy() has to follow.
 */
int hm_mapping_make(struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err);
/*
 * Puts new anonymous memory in the place of a range, with advice, policy and lock as the rest.
 * Returns 0 or -errno; on failure the range may be new already.
 */
int hm_mapping_replace(const struct hostmem_backend *backend, const struct hm_range *range);
/* Names anonymous memory for /proc/self/maps, where the kernel can (5.17). */
void hm_mapping_name(const struct hostmem_backend *backend);
/* Makes the memory accessible; advice and policy come before. */
int hm_mapping_open(const struct hostmem_backend *backend, const struct hm_values *values,
		    struct hostmem_error *err);

/* ---- room.c ---- */

/* Room on a file system, in bytes. */
struct hm_room {
	dev_t device;
	ino_t inode;
	uint64_t total, left;
	/* Of the file, and what of it has no blocks yet. */
	uint64_t size, absent;
};

/* False for memory that takes no room of a file system, or where that has no limit. */
bool hm_room_read(const struct hostmem_backend *backend, struct hm_room *room);
/* Bytes that populating a range of the memory still takes; 0 where they cannot be counted. */
uint64_t hm_room_count_needed(const struct hostmem_backend *backend, const struct hm_range *range,
			      const struct hm_room *room);
/* Adds a warning where not all of the memory can be populated. */
void hm_room_warn(struct hostmem_backend *backend);
/* The path of the backing's file, for messages. */
void hm_room_format_path(const struct hostmem_backend *backend, char *path, size_t size);

/* ---- effect.c ---- */

/* Adds a warning where the value of the property has no effect on the memory. */
void hm_effect_warn(struct hostmem_backend *backend, enum hm_property property,
		    const struct hm_values *values);
/* The same for all properties that are not at their default. */
void hm_effect_warn_all(struct hostmem_backend *backend, const struct hm_values *values);

/* ---- huge_pages.c ---- */

/* Bytes of the huge pages that hugetlb and hugetlbsize ask for; 0: none. */
uint64_t hm_huge_pages_wanted(const struct hostmem_backend *backend,
			      const struct hm_values *values);
/* Whether the host has huge pages of that size, and enough of them. */
int hm_huge_pages_check_wanted(const struct hostmem_backend *backend,
			       const struct hm_values *values, struct hostmem_error *err);
/* Whether memory of the backend's size can be reserved in huge pages of this size. */
int hm_huge_pages_check(const struct hostmem_backend *backend, uint64_t page_size,
			const struct hm_values *values, struct hostmem_error *err);
/*
 * Appends to an error how many pages are free in the pool of the backend's page size, on each node
 * of host-nodes too, and what a control group's limit leaves. Nothing for small pages.
 */
void hm_huge_pages_append(const struct hostmem_backend *backend, const struct hm_values *values,
			  struct hostmem_error *err);

/* ---- check.c ---- */

/* Whether the whole configuration is possible here; touches nothing. */
int hm_check_all(const struct hostmem_backend *backend, const struct hm_values *values,
		 struct hostmem_error *err);
/* Whether a file of this type can be mapped. property: what named it; path: "" for a descriptor. */
int hm_check_file_type(const struct hostmem_backend *backend, const char *property,
		       const char *path, const struct hm_file *file, struct hostmem_error *err);
/*
 * Whether the mapping reserves; huge: whether it is of huge pages of a pool. reserve=try reserves
 * those that prealloc takes at once, so that a shortage shows before anything is populated.
 */
bool hm_check_reserves(const struct hm_values *values, bool huge);
/* Whether reserve=off has an effect on memory with this page size. */
int hm_check_reserve(const struct hostmem_backend *backend, const struct hm_values *values,
		     uint64_t page_size, struct hostmem_error *err);
/* Whether a file may be grown to this size. */
int hm_check_file_limit(const struct hostmem_backend *backend, uint64_t size,
			struct hostmem_error *err);
/* Whether the memory is mapped for reading only. */
bool hm_check_is_readonly(const struct hm_values *values);
/* Whether `lock` may be switched on, by what of it this process may still lock. */
int hm_check_lock(const struct hostmem_backend *backend, const struct hm_values *values,
		  struct hostmem_error *err);

#endif
