/* SPDX-License-Identifier: BSD-3-Clause
 *
 * C boundary of libpcow: open, read, write and check pcow images from C or any language that calls
 * C. The C++ contract behind it, with every detail, is pcow/image.h.
 *
 * Functions that can fail return PCOW_OK or a negative PCOW_E_* code (outside errno's range) and,
 * when err is not NULL, fill it. No exception crosses. A pcow_image is used by one thread at a
 * time.
 */
#ifndef PCOW_PCOW_H
#define PCOW_PCOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PCOW_API __attribute__((visibility("default")))
#else
#define PCOW_API
#endif

/* Same order and meaning as pcow::Code; see pcow/status.h. */
enum pcow_code {
  PCOW_OK = 0,
  PCOW_E_INVALID = -10001,
  PCOW_E_NOT_FOUND = -10002,
  PCOW_E_PERMISSION = -10003,
  PCOW_E_BUSY = -10004,
  PCOW_E_NO_SPACE = -10005,
  PCOW_E_IO = -10006,
  PCOW_E_CORRUPT = -10007,
  PCOW_E_FOREIGN = -10008,
  PCOW_E_UNSUPPORTED = -10009,
  PCOW_E_EXISTS = -10010,
  PCOW_E_NEEDS_RECOVERY = -10011,
  PCOW_E_NO_MEMORY = -10012,
  PCOW_E_INTERNAL = -10013,
  PCOW_E_LOG_FULL = -10014,
};

struct pcow_error {
  int code;           /* enum pcow_code */
  int sys_errno;      /* errno behind it, or 0 */
  char message[1000]; /* what is wrong, with which file, what to do */
};

struct pcow_info {
  uint32_t struct_size; /* set by the caller to sizeof(struct pcow_info) */
  uint32_t format_version;
  char uuid[37];
  uint64_t virtual_size_bytes;
  uint64_t allocated_bytes;
  uint64_t disk_bytes;
  uint64_t committed_epoch;
  bool clean; /* was closed cleanly before this open */
};

struct pcow_page_write {
  uint64_t page;    /* index of a 4 KiB page of guest memory */
  const void* data; /* 4096 bytes */
};

typedef struct pcow_image pcow_image;

/* log_size_bytes: 0 = 1/16 of the image, from 64 to 256 MiB. Errors: INVALID, EXISTS, NOT_FOUND,
 * PERMISSION, NO_SPACE, IO. */
PCOW_API int pcow_create(const char* path, uint64_t virtual_size_bytes, uint64_t log_size_bytes,
                         struct pcow_error* err);

/* The same on a base image, whose path is relative to the directory of the new image. Size 0: that
 * of the base. Errors: also those of opening the base. */
PCOW_API int pcow_create_on_base(const char* path, const char* base_path, bool base_is_raw,
                                 uint64_t virtual_size_bytes, uint64_t log_size_bytes,
                                 struct pcow_error* err);

/* What pcow_create_with() makes. Zeros stand for the defaults, so memory that is zeroed, with
 * struct_size and the size set, is an empty image in one file. Fields are added at the end: a
 * caller that was compiled without them has a smaller struct_size, and one that is newer than the
 * library is refused (INVALID) only if it has set one that the library does not know. */
struct pcow_create_options {
  size_t struct_size;          /* set by the caller to sizeof(struct pcow_create_options) */
  uint64_t virtual_size_bytes; /* 0 with a base: that of the base, rounded up */
  uint64_t log_size_bytes;     /* 0 = default */
  const char* base_path;       /* from the directory of the new image; NULL: none */
  /* Files that the image is striped over, apart from itself: 1, 3, 7 or 15 paths from its
   * directory. pcow/image.h (CreateOptions) says how they are found again. */
  const char* const* stripe_paths;
  size_t stripe_path_count;   /* 0: an image in one file */
  uint64_t stripe_unit_bytes; /* 2 MiB times a power of two; 0 = default */
  uint32_t base_is_raw;       /* 0 or 1 */
  uint32_t overwrite;         /* 0 or 1: replace a file that is not in use, and, of the stripe set
                               * that it is the first file of, the other files */
};

/* The most general form of the above. Errors: those of pcow_create_on_base(), and BUSY. */
PCOW_API int pcow_create_with(const char* path, const struct pcow_create_options* options,
                              struct pcow_error* err);

enum pcow_open_flags {
  PCOW_OPEN_WRITABLE = 1u << 0,
  /* The image may name any file as its base; without this an image with a base is refused. */
  PCOW_OPEN_ALLOW_BASE = 1u << 1,
};

/* flags: of enum pcow_open_flags. On failure *out is NULL and nothing was modified. */
PCOW_API int pcow_open(const char* path, unsigned flags, pcow_image** out, struct pcow_error* err);

/* Clean close; on failure the image stays open. */
PCOW_API int pcow_close(pcow_image* image, struct pcow_error* err);

/* Releases an image; one that is open for writing is left as after a crash. NULL is allowed. */
PCOW_API void pcow_free(pcow_image* image);

PCOW_API int pcow_get_info(const pcow_image* image, struct pcow_info* info, struct pcow_error* err);

/* Reads guest memory; unowned pages read as zeros. Errors: INVALID (beyond the end), CORRUPT, IO.
 */
PCOW_API int pcow_read(const pcow_image* image, uint64_t offset, void* out, size_t length,
                       struct pcow_error* err);

/* Stores whole pages, ascending. Durable after pcow_commit. Errors: INVALID, NO_SPACE, IO, CORRUPT.
 */
PCOW_API int pcow_write_pages(pcow_image* image, const struct pcow_page_write* pages, size_t count,
                              struct pcow_error* err);

/* Makes what was written durable; *epoch (may be NULL) names the state. */
PCOW_API int pcow_commit(pcow_image* image, uint64_t* epoch, struct pcow_error* err);

/* Snapshots; pcow/image.h says what each does to the image. Errors of all: IO, NO_SPACE, CORRUPT.
 */

struct pcow_snapshot {
  const char* name;
  uint64_t id;
  uint64_t created_ns; /* Unix time */
  uint64_t virtual_size_bytes;
  uint64_t allocated_bytes;
  uint64_t committed_epoch;
};

/* Calls fn for each, oldest first, until it returns false. What it gets lives during the call. */
PCOW_API int pcow_snapshot_list(const pcow_image* image,
                                bool (*fn)(const struct pcow_snapshot* snapshot, void* context),
                                void* context, struct pcow_error* err);

/* Commits what was written, and keeps it under a name. Errors: EXISTS, INVALID (the name). */
PCOW_API int pcow_snapshot_create(pcow_image* image, const char* name, struct pcow_error* err);

/* Errors: NOT_FOUND. */
PCOW_API int pcow_snapshot_delete(pcow_image* image, const char* name, struct pcow_error* err);

/* Goes back to a snapshot: what was written since is lost. Errors: NOT_FOUND. */
PCOW_API int pcow_snapshot_apply(pcow_image* image, const char* name, struct pcow_error* err);

#ifdef __cplusplus
}
#endif
#endif
