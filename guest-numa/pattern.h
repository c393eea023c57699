/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Self-describing pages: what memfill writes in the guest, and what a checker on the host finds
 * again in an image without knowing where the guest put them.
 *
 * A pattern page is 512 little-endian 64-bit words:
 *
 *     0      PATTERN_MAGIC
 *     1      seed of the run
 *     2      index of the page in the run, from 0
 *     3-511  pattern_word(seed, index, word)
 *
 * Every word depends on all of seed, index and its own place, so a page that is torn, shifted,
 * mixed from two pages or out of date is not intact.
 */
#ifndef GUEST_NUMA_PATTERN_H
#define GUEST_NUMA_PATTERN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PATTERN_PAGE_BYTES ((size_t)4096)
#define PATTERN_PAGE_WORDS ((size_t)512)
#define PATTERN_HEADER_WORDS ((size_t)3)
#define PATTERN_MAGIC UINT64_C(0x31544150574f4350) /* "PCOWPAT1" */

enum pattern_state {
  PATTERN_NONE = 0,    /* not a pattern page */
  PATTERN_INTACT = 1,  /* every word is as written */
  PATTERN_DAMAGED = 2, /* begins like a pattern page, but is not intact */
};

static inline uint64_t pattern_word(uint64_t seed, uint64_t index, uint64_t word) {
  /* splitmix64 of a value that is different for all the pages of a run. */
  uint64_t x = (seed + index * UINT64_C(0x9e3779b97f4a7c15)) ^ (word << 48U);
  x += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ (x >> 30U)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27U)) * UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31U);
}

static inline uint64_t pattern_expected(uint64_t seed, uint64_t index, size_t word) {
  switch (word) {
    case 0:
      return PATTERN_MAGIC;
    case 1:
      return seed;
    case 2:
      return index;
    default:
      return pattern_word(seed, index, word);
  }
}

/* page: PATTERN_PAGE_BYTES bytes, aligned to 8. */
static inline void pattern_fill(void* page, uint64_t seed, uint64_t index) {
  uint64_t* words = (uint64_t*)page;
  for (size_t i = 0; i < PATTERN_PAGE_WORDS; i++) {
    words[i] = pattern_expected(seed, index, i);
  }
}

static inline enum pattern_state pattern_check(const void* page, uint64_t* seed, uint64_t* index) {
  const uint64_t* words = (const uint64_t*)page;
  if (words[0] != PATTERN_MAGIC) {
    return PATTERN_NONE;
  }
  *seed = words[1];
  *index = words[2];
  for (size_t i = PATTERN_HEADER_WORDS; i < PATTERN_PAGE_WORDS; i++) {
    if (words[i] != pattern_word(*seed, *index, i)) {
      return PATTERN_DAMAGED;
    }
  }
  return PATTERN_INTACT;
}

#endif
