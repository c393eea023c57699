/* SPDX-License-Identifier: BSD-3-Clause
 *
 * C boundary of the tiering library: a guest memory region backed by a pcow image.
 *
 * This is what a hypervisor links against. No exception crosses it; every function that can fail
 * returns 0 on success or one of the negative TIERING_E_* codes and fills *err when err is not
 * NULL. The codes lie outside errno's range on purpose: they name what the caller can do about it.
 *
 * Thread-safety: a region may be used by one thread at a time; callers serialise (QEMU: the BQL).
 * tiering_region_base()/size() never change and may be read by anyone; tiering_region_pin(),
 * tiering_region_unpin() and tiering_region_flush() may be called by anyone at any time, and so may
 * what is marked as thread-safe below.
 *
 * ABI: structures that the caller allocates start with struct_size = sizeof(the structure), so
 * that fields can be appended later.
 */
#ifndef TIERING_TIERING_H
#define TIERING_TIERING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TIERING_ABI_VERSION 1

#if defined(__GNUC__)
#define TIERING_API __attribute__((visibility("default")))
#else
#define TIERING_API
#endif

enum tiering_code {
  TIERING_OK = 0,
  TIERING_E_INVALID = -20001,        /* an option or argument is wrong */
  TIERING_E_NOT_FOUND = -20002,      /* the image file does not exist */
  TIERING_E_PERMISSION = -20003,     /* not permitted by the file system or the kernel */
  TIERING_E_BUSY = -20004,           /* the image is in use by another process */
  TIERING_E_NO_SPACE = -20005,       /* the medium is full; nothing was lost, retry after freeing */
  TIERING_E_IO = -20006,             /* the medium reported an error */
  TIERING_E_CORRUPT = -20007,        /* the image is damaged */
  TIERING_E_FOREIGN = -20008,        /* the file is not a pcow image */
  TIERING_E_UNSUPPORTED = -20009,    /* a newer format, or a combination that cannot be honoured */
  TIERING_E_EXISTS = -20010,         /* the file to create exists */
  TIERING_E_NEEDS_RECOVERY = -20011, /* a read-only open of an image that was not closed cleanly */
  TIERING_E_NO_MEMORY = -20012,      /* address space, mappings or memory exhausted */
  TIERING_E_INTERNAL = -20013,       /* a defect in this library */
  TIERING_E_LOG_FULL = -20014,       /* an epoch is larger than any log */
};

/* A failure in the user's words: what is wrong, with which file/option/value, what to do. */
struct tiering_error {
  int code;           /* enum tiering_code */
  int sys_errno;      /* errno behind it, or 0 */
  char message[1000]; /* one or more sentences, NUL-terminated */
};

enum tiering_persistence {
  TIERING_PERSISTENCE_VOLATILE = 0, /* NUMA memory: durable after a commit or a clean shutdown */
  TIERING_PERSISTENCE_EPOCH = 1,    /* a crash leaves exactly the last epoch */
  TIERING_PERSISTENCE_DIRECT = 2,   /* not supported yet: refused */
};

enum tiering_policy {
  TIERING_POLICY_OFF = 0,    /* nothing is observed; pages leave DRAM to honour dram_size alone */
  TIERING_POLICY_STATIC = 1, /* the same, but observed */
  TIERING_POLICY_AGE = 2,    /* least recently used */
  TIERING_POLICY_HEAT = 3,   /* by how often pages are accessed */
  TIERING_POLICY_CMQ = 4,    /* multi-queue */
  /* 1..4 need TIERING_PERSISTENCE_EPOCH */
};

/* NUMA placement of the DRAM side; same meaning as QEMU's HostMemPolicy and set_mempolicy(2). */
enum tiering_numa_policy {
  TIERING_NUMA_DEFAULT = 0,
  TIERING_NUMA_PREFERRED = 1,
  TIERING_NUMA_BIND = 2,
  TIERING_NUMA_INTERLEAVE = 3,
};

/* How a region with persistence=epoch makes its epochs. The functions are called by a thread of the
 * library, which holds no lock then; they stay callable until tiering_epoch_stop(), _shutdown() or
 * _free() returns. */
struct tiering_epoch_options {
  uint32_t struct_size;
  uint64_t min_ms;            /* between epochs at least; 0 = 100 */
  uint64_t max_ms;            /* and at most: what may be lost; 0 = 30000; = min_ms: fixed */
  uint32_t overhead_permille; /* of the guest's time that epochs may cost; 0 = 20 */
  void* opaque;
  /* Makes everybody quiet who stores into the region (vCPUs paused, I/O threads at a rendezvous),
   * but for what is pinned; calls body(argument) once, in whatever thread; lets them go on; returns
   * true. Or returns false without calling it, when that is not possible now. Not called again
   * before it has returned. body() takes some milliseconds, or, where the guest stores faster than
   * the log takes, until the medium has caught up. */
  bool (*while_quiet)(void* opaque, void (*body)(void* argument), void* argument);
  /* An epoch failed (enum tiering_code); the image keeps the last one. Unless `ended`, it is tried
   * again, a second later at most, and this is called each time that it fails. The guest should be
   * stopped: from now on a crash would lose more than an interval. It has to be with
   * TIERING_E_LOG_FULL: what it has changed since the last epoch is more than the log takes. */
  void (*epoch_failed)(void* opaque, int code, const char* message, bool ended);
  /* An epoch succeeded after others failed: a guest that was stopped for that may go on. NULL: not
   * called. */
  void (*epochs_recovered)(void* opaque);
};

struct tiering_options {
  uint32_t struct_size;
  const char* image_path;   /* pcow image, opened for writing; locked until shutdown */
  uint64_t size_bytes;      /* must equal the image's virtual size */
  uint64_t dram_size_bytes; /* DRAM the region may keep after a commit; 0 = size_bytes */
  enum tiering_persistence persistence;
  enum tiering_policy policy;
  uint32_t mapping_budget; /* kernel mappings the region may use; 0 = 8192 */
  bool dump;               /* include guest memory in core dumps */
  enum tiering_numa_policy numa_policy;
  const unsigned long* host_nodes; /* bitmap of max_host_node bits; NULL with NUMA_DEFAULT */
  unsigned long max_host_node;
  bool
      allow_base; /* the image may have a base; it could name any file as that, so: a trusted one */
  const struct tiering_epoch_options* epoch; /* with TIERING_PERSISTENCE_EPOCH, which needs it */
};

struct tiering_commit_report {
  uint32_t struct_size;
  uint64_t epoch;         /* the epoch that is durable now */
  uint64_t scanned_pages; /* dirty candidates the scan returned */
  uint64_t written_pages; /* pages stored into the image */
  uint64_t zero_pages;    /* candidates that are all zero: kept as holes */
  uint64_t demoted_pages; /* DRAM copies dropped to honour dram_size */
  uint64_t pause_ns;      /* time spent in this call: the guest is stopped meanwhile */
};

struct tiering_status {
  uint32_t struct_size;
  char image_path[1024];
  char image_uuid[37];
  char medium[16];  /* persist granularity: "cache-line", "byte" or "page" */
  char tracker[16]; /* how dirty pages are found: "pagemap-scan" or "soft-dirty" */
  uint64_t size_bytes;
  uint64_t dram_size_bytes;
  uint64_t dram_resident_bytes; /* DRAM copies of this region's pages now */
  uint64_t dirty_bytes;         /* of them: not yet in the image */
  uint64_t allocated_bytes;     /* pages the image owns */
  uint64_t disk_bytes;          /* what the image file occupies on its file system */
  uint64_t hole_chunks, cached_chunks, huge_chunks, direct_chunks;
  uint32_t mappings; /* kernel mappings the region uses now */
  uint32_t mapping_budget;
  uint64_t committed_epoch;
  uint64_t commits;       /* since the region was opened */
  uint64_t written_bytes; /* page data stored into the image since then */
  uint64_t demoted_pages; /* since then */
  uint64_t last_pause_ns; /* of the last commit */
  uint64_t changed_bytes; /* pages that were found to be stored to, each time */
  /* Stored to the medium since the image was opened, by what for. */
  uint64_t stored_log_bytes;
  uint64_t stored_checkpoint_bytes; /* from the log to their places */
  uint64_t stored_pages_bytes;      /* straight to their places */
  uint64_t stored_copies_bytes;     /* of what the image has elsewhere: for demotion, or deletion */
  uint64_t stored_metadata_bytes;
};

struct tiering_epoch_status {
  uint32_t struct_size;
  uint64_t epochs;       /* committed since the region was opened */
  uint64_t early_epochs; /* of them before their time, because the log was filling */
  uint64_t failed_epochs;
  uint64_t precopied_pages; /* copied while the guest ran */
  uint64_t residue_pages;   /* copied at barriers */
  uint64_t pinned_pages;    /* of them pinned, or just released */
  uint64_t logged_bytes;
  uint64_t checkpointed_pages; /* moved from the log to their places */
  uint64_t demoted_pages;
  uint64_t flushes;
  uint64_t interval_ns;                              /* now */
  uint64_t pause_p50_ns, pause_p99_ns, pause_max_ns; /* of barriers, measured inside */
  uint64_t holds, held_ns; /* of a guest that stored faster than the log takes; in all of them */
  uint64_t restarts;       /* of epochs that did not fit in the log, which grew */
  uint64_t pause_sum_ns;
};

/* What a region keeps in DRAM, and how. 0 stands for the default where one is named. */
struct tiering_policy_options {
  uint32_t struct_size;
  enum tiering_policy policy;
  uint64_t dram_size_bytes; /* hard limit; 0: the size of the region */
  uint32_t high_percent;    /* of it: above that pages leave DRAM; 0 = 95 */
  uint32_t low_percent;     /* down to this; pages come to DRAM up to it; 0 = 85 */
  uint64_t migrate_rate;    /* bytes a second, in both directions together; 0 = 500 MiB */
};

/* What the policy did since the region was opened. */
struct tiering_policy_status {
  uint32_t struct_size;
  uint64_t steps; /* looks at what was accessed */
  uint64_t plans;
  uint64_t failed_steps; /* pages left DRAM for dram_size alone: last_failure */
  uint64_t promoted_pages;
  uint64_t planned_demotions; /* how many were made: tiering_epoch_status */
  uint64_t limit_demotions;   /* of them, chosen for the limit's sake alone */
  uint64_t watched_chunks;    /* of 2 MiB, whose reads were looked at */
  uint64_t unmapped_pages;    /* for that */
  uint64_t read_pages;        /* seen then */
  /* Moves that were wanted and not made; a page counts with every plan. */
  uint64_t refused_cool_down;      /* it has just been moved */
  uint64_t refused_pinned;         /* or stored to, and not in the image yet */
  uint64_t refused_rate;           /* migrate_rate is used up */
  uint64_t refused_no_colder_page; /* nothing in DRAM is colder by enough */
  uint64_t refused_unmovable;      /* its chunk would have to be mapped from elsewhere */
  uint64_t refused_failed;         /* last_failure */
  uint64_t tracker_bytes;          /* of memory for what is known of the pages */
  uint64_t busy_ns;                /* of the library's thread, for all this */
  char last_failure[1000];         /* of a promotion or a step, or empty */
  int32_t
      hit_permille; /* of the accesses to be expected: those whose page is in DRAM; -1: unknown */
};

enum tiering_place {
  TIERING_PLACE_HOLE = 0,  /* reads as zeros, takes no space */
  TIERING_PLACE_IMAGE = 1, /* read straight from the image */
  TIERING_PLACE_DRAM = 2,
};

/* Neighbouring pages that are alike. The library sets struct_size. */
struct tiering_explained {
  uint32_t struct_size;
  uint64_t first_page; /* of 4096 bytes */
  uint64_t pages;
  enum tiering_place place;
  bool dirty;             /* in DRAM: stored to, and not at its place in the image yet */
  bool pinned;            /* in DRAM, and a device may store to it */
  bool known;             /* an access was seen; else the following are 0 */
  bool written;           /* the last one was a store */
  uint32_t heat_permille; /* estimated chance of an access in an epoch of the policy */
  uint32_t idle_epochs;   /* since the last access */
  uint32_t cool_down;     /* epochs for which it stays, because it was moved */
  uint32_t score;         /* what it is worth in DRAM, on the policy's own scale */
  const char* verdict;    /* of the last plan: "promoted", "demoted", "forced", "belongs",
                             "policy-still", "cool-down", "pinned", "rate", "no-colder-page";
                             NULL: no plan was made since the policy was set */
};

/* A snapshot in the image of a region. The library sets struct_size. */
struct tiering_snapshot {
  uint32_t struct_size;
  char name[128];
  uint64_t id;
  uint64_t parent;          /* id of the snapshot before it in its history, or 0 */
  uint64_t created_ns;      /* Unix time */
  uint64_t epoch;           /* the committed state that it keeps */
  uint64_t size_bytes;      /* virtual size */
  uint64_t allocated_bytes; /* pages written between the snapshot before it and this one */
};

/* What became of the last tiering_snapshot_delete(). */
struct tiering_deletion_status {
  uint32_t struct_size;
  bool pending;       /* space is still to be given back */
  char message[1000]; /* why it does not go on, or empty; it is tried again after a commit */
};

/* The end of something: TIERING_OK and an empty message, or what went wrong. */
typedef void tiering_done(void* opaque, int code, const char* message);

typedef struct tiering_region tiering_region;

/* Opens the image and maps it. On failure *out is NULL and nothing was modified.
 * Errors: all codes but TIERING_E_EXISTS. */
TIERING_API int tiering_region_open(const struct tiering_options* options, tiering_region** out,
                                    struct tiering_error* err);

/* Start of the mapping (aligned to 1 GiB, or to 2 MiB for regions below 1 GiB) and its length. */
TIERING_API void* tiering_region_base(const tiering_region* region);
TIERING_API uint64_t tiering_region_size(const tiering_region* region);

/* Applies the region's mapping attributes (NUMA policy, no huge pages in holes, no fork, dump)
 * again. Call it once after a host that applies its own madvise() to all of guest memory, so that
 * every part of the region keeps equal attributes and adjacent mappings keep merging.
 * Errors: TIERING_E_NO_MEMORY, TIERING_E_PERMISSION. */
TIERING_API int tiering_region_apply_attributes(tiering_region* region, struct tiering_error* err);

/* Stores every dirty page into the image and makes it durable; then, when may_demote is true,
 * drops DRAM copies until at most dram_size is resident.
 * REQUIRES: nobody stores into the region during the call (vCPUs and I/O threads are paused).
 * REQUIRES for may_demote: no pointer into the region is in use by DMA in flight.
 * Refused (TIERING_E_INVALID) while epochs are being made: tiering_region_flush() does it then.
 * On failure nothing is lost: pages that did not reach the image stay dirty in DRAM.
 * report may be NULL. Errors: TIERING_E_NO_SPACE, TIERING_E_IO, TIERING_E_CORRUPT. */
TIERING_API int tiering_region_commit(tiering_region* region, bool may_demote,
                                      struct tiering_commit_report* report,
                                      struct tiering_error* err);

/* Gives up length bytes at offset, multiples of 4096: they read as zeros when this returns, and go
 * on to. Their DRAM goes back at once, or, of less than 2 MiB that the image has, after the next
 * commit or epoch. The image gives back what it has there by then at the latest: before that epoch
 * a crash leaves what the last one had; with TIERING_PERSISTENCE_VOLATILE each page as it was, or
 * zero. Others may store into the region meanwhile; what they store to these bytes may be lost.
 * Pinned pages get zeros. May wait for a step of an epoch that is being made. Errors:
 * TIERING_E_INVALID (the range, or the region was shut down), TIERING_E_NO_MEMORY, TIERING_E_IO,
 * TIERING_E_CORRUPT: a part is zero, and the call may be repeated. */
TIERING_API int tiering_region_discard(tiering_region* region, uint64_t offset, uint64_t length,
                                       struct tiering_error* err);

/* A snapshot of counters and sizes; walks the page table (about 1 ns per idle page). */
TIERING_API int tiering_region_status(tiering_region* region, struct tiering_status* status,
                                      struct tiering_error* err);

/* Final commit and clean close of the image. The memory stays mapped and readable, but stores into
 * it are no longer saved. REQUIRES: as tiering_region_commit. On failure the image stays open and
 * the call may be repeated. Errors: as tiering_region_commit. */
TIERING_API int tiering_region_shutdown(tiering_region* region, struct tiering_error* err);

/* Unmaps and frees. Without a shutdown before, everything since the last commit is dropped and the
 * image is left as after a crash (the next open recovers it). NULL is allowed. */
TIERING_API void tiering_region_free(tiering_region* region);

/* --- persistence=epoch; TIERING_E_INVALID otherwise --- */

/* Starts making epochs, in a thread of the library. Errors: TIERING_E_INVALID (it runs already, or
 * the region was shut down), TIERING_E_NO_MEMORY. */
TIERING_API int tiering_epoch_start(tiering_region* region, struct tiering_error* err);

/* Ends that after the epoch under way. What changed since is not durable: a commit makes it so.
 * REQUIRES: the caller holds nothing that while_quiet() waits for (QEMU: not the BQL). The same
 * goes for tiering_region_shutdown() and _free() while epochs are being made. */
TIERING_API int tiering_epoch_stop(tiering_region* region, struct tiering_error* err);

/* Has an epoch made now, and calls `done` when all that was stored before this call is durable
 * (TIERING_OK), or failed to become so: in the library's thread, or before this returns when no
 * epochs are being made. Does not block. Where the medium or memory is full it fails, or, with
 * `wait_when_full`, is done when an epoch has succeeded again. */
TIERING_API int tiering_region_flush(tiering_region* region, bool wait_when_full,
                                     void (*done)(void* opaque, int code, const char* message),
                                     void* opaque, struct tiering_error* err);

TIERING_API int tiering_epoch_get_status(tiering_region* region,
                                         struct tiering_epoch_status* status,
                                         struct tiering_error* err);
/* How the pauses of barriers are distributed: calls `each` with a number of them that took at most
 * so long, and longer than those of the call before; ascending. The bounds are within an eighth. */
TIERING_API int tiering_epoch_get_pauses(tiering_region* region,
                                         void (*each)(void* opaque, uint64_t up_to_ns,
                                                      uint64_t count),
                                         void* opaque, struct tiering_error* err);

/* Tells that somebody may store to these bytes behind the page table, from before they get at the
 * page until they are done: the kernel for O_DIRECT or io_uring, a device. Such stores mark no page
 * dirty. Pins nest; tiering_region_unpin() takes back one that starts at the same page and is at
 * least as long, the shortest of these. Both wait while a barrier changes mappings. Errors:
 * TIERING_E_INVALID (not in the region, not pinned), TIERING_E_NO_MEMORY. */
TIERING_API int tiering_region_pin(tiering_region* region, uint64_t offset, uint64_t length,
                                   struct tiering_error* err);
TIERING_API int tiering_region_unpin(tiering_region* region, uint64_t offset, uint64_t length,
                                     struct tiering_error* err);

/* Several regions can make an epoch of the same moment: hold them all, then, with everybody quiet
 * who stores into them, make the barrier of each, let everybody go on, and release them all.
 *
 * tiering_epoch_hold(): the next epoch is prepared, and waits. `held` is called when it does, or
 * could not (then there is nothing to release): in the library's thread, or before this returns.
 * Flushes wait until the release. tiering_epoch_barrier(): REQUIRES what while_quiet() gives; any
 * thread. Errors: TIERING_E_INVALID (not held), TIERING_E_LOG_FULL, TIERING_E_NO_SPACE,
 * TIERING_E_NO_MEMORY, TIERING_E_IO, TIERING_E_CORRUPT. tiering_epoch_release(): the barrier is
 * committed, or, if there was none, one is asked for by while_quiet(). */
TIERING_API int tiering_epoch_hold(tiering_region* region, tiering_done* held, void* opaque,
                                   struct tiering_error* err);
TIERING_API int tiering_epoch_barrier(tiering_region* region, struct tiering_error* err);
TIERING_API int tiering_epoch_release(tiering_region* region, struct tiering_error* err);

/* --- what is in DRAM, and why; thread-safe, but for a shutdown meanwhile --- */

/* Takes effect with the next epoch. On failure nothing has changed. Errors: TIERING_E_INVALID,
 * TIERING_E_NO_MEMORY, TIERING_E_UNSUPPORTED (a policy that the region's persistence does not go
 * with). _get_: what is set, with the defaults filled in. */
TIERING_API int tiering_region_set_policy(tiering_region* region,
                                          const struct tiering_policy_options* options,
                                          struct tiering_error* err);
TIERING_API int tiering_region_get_policy(tiering_region* region,
                                          struct tiering_policy_options* options,
                                          struct tiering_error* err);
TIERING_API int tiering_region_policy_status(tiering_region* region,
                                             struct tiering_policy_status* status,
                                             struct tiering_error* err);

/* Calls `each` for the pages that hold these bytes, ascending, without gaps. At most 1 GiB.
 * Errors: TIERING_E_INVALID (not in the region, too many, shut down), TIERING_E_NO_MEMORY,
 * TIERING_E_IO, TIERING_E_CORRUPT. */
TIERING_API int tiering_region_explain(tiering_region* region, uint64_t offset, uint64_t length,
                                       void (*each)(void* opaque,
                                                    const struct tiering_explained* pages),
                                       void* opaque, struct tiering_error* err);

/* --- snapshots of the image, while the region is in use --- */

/* Keeps the content under a name, of 1 to 127 bytes. `done` is called once if this returns
 * TIERING_OK.
 * TIERING_PERSISTENCE_VOLATILE: what the last commit made durable; REQUIRES that nobody commits
 * meanwhile; `done` is called before this returns.
 * TIERING_PERSISTENCE_EPOCH: an epoch is made now, or, where epochs are held, by the barrier that
 * follows; `done` is called as that of tiering_region_flush(). Thread-safe.
 * Errors: TIERING_E_EXISTS (the name), TIERING_E_INVALID (no such name is possible, the last commit
 * failed, no epochs are being made), TIERING_E_NO_SPACE (also: no more snapshots are possible),
 * TIERING_E_IO, TIERING_E_CORRUPT, and those of the epoch. */
TIERING_API int tiering_snapshot_create(tiering_region* region, const char* name,
                                        tiering_done* done, void* opaque,
                                        struct tiering_error* err);

/* Calls `each` for every snapshot, oldest first. Errors: TIERING_E_INVALID (shut down),
 * TIERING_E_IO, TIERING_E_CORRUPT. */
TIERING_API int tiering_snapshot_list(tiering_region* region,
                                      void (*each)(void* opaque,
                                                   const struct tiering_snapshot* snapshot),
                                      void* opaque, struct tiering_error* err);

/* Deletes one. When `done` is called, as by tiering_snapshot_create(), its name is gone, durably.
 * Its space is given back while the guest runs: with epochs by the library's thread, else by
 * tiering_deletion_step(); what is left of that when the image is closed, when it is opened again.
 * Errors: TIERING_E_NOT_FOUND (the name), TIERING_E_BUSY (another one is being deleted),
 * TIERING_E_INVALID, TIERING_E_NO_SPACE, TIERING_E_IO, TIERING_E_CORRUPT. */
TIERING_API int tiering_snapshot_delete(tiering_region* region, const char* name,
                                        tiering_done* done, void* opaque,
                                        struct tiering_error* err);

/* TIERING_PERSISTENCE_VOLATILE: goes on with a deletion, for about a millisecond. *more: whether to
 * call it again; else all is done, or it can go on only after the next tiering_region_commit() that
 * may demote. On failure, too. Does nothing where epochs are made. Errors: TIERING_E_NO_SPACE,
 * TIERING_E_IO, TIERING_E_CORRUPT. */
TIERING_API int tiering_deletion_step(tiering_region* region, bool* more,
                                      struct tiering_error* err);
TIERING_API int tiering_deletion_get_status(tiering_region* region,
                                            struct tiering_deletion_status* status,
                                            struct tiering_error* err);

/* --- the log: lines about all regions of the process, on standard error --- */

enum tiering_log_level {
  TIERING_LOG_DEBUG = 0, /* each epoch */
  TIERING_LOG_INFO = 1,  /* what is done because somebody asks, or the guest is too fast */
  TIERING_LOG_WARNING = 2,
  TIERING_LOG_ERROR = 3,
  TIERING_LOG_OFF = 4,
};

/* What is below the level is not logged; at first it is TIERING_LOG_WARNING. Thread-safe. Errors:
 * TIERING_E_INVALID. */
TIERING_API int tiering_log_set_level(enum tiering_log_level level, struct tiering_error* err);
TIERING_API enum tiering_log_level tiering_log_get_level(void);
/* Has `line` called for each line as well, in whatever thread logs it, also inside of calls to this
 * library; it must not call this library. In place of the one before; NULL: none. Thread-safe. */
TIERING_API int tiering_log_set_listener(void (*line)(void* opaque, enum tiering_log_level level,
                                                      const char* text),
                                         void* opaque, struct tiering_error* err);

/* "1.0.0 (pcow format 1)" — static storage. */
TIERING_API const char* tiering_version(void);

#ifdef __cplusplus
}
#endif
#endif
