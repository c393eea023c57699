/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Fills memory of one NUMA node with self-describing pages and verifies them. Runs in the guest,
 * linked statically, on a busybox initramfs.
 *
 * The memory is bound strictly, and where the pages really are is asked from the kernel: a page on
 * another node is a failure, because a test of that node would prove nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pattern.h"

/* <linux/mempolicy.h> */
enum { POLICY_BIND = 2, MOVE_STRICT = 1 };

static const char usage_text[] =
    "usage: memfill --node N --size BYTES[K|M|G] --seed S [--file PATH] [--verify-only]\n"
    "               [--load DEVICE [--rounds N]] [--hold]\n"
    "  --node N       NUMA node that all the memory has to come from\n"
    "  --size BYTES   how much, rounded up to 4 KiB\n"
    "  --seed S       tells this run's pages from those of others\n"
    "  --file PATH    fill a file on tmpfs instead of private memory: it outlives memfill\n"
    "  --verify-only  do not fill, verify what an earlier run left in --file\n"
    "  --load DEVICE  do not fill, read the same pages from a disk by direct I/O\n"
    "  --rounds N     do so N times, wiping the memory in between\n"
    "  --hold         keep the memory and verify again for every line read, until end of file;\n"
    "                 a line 'fill N' fills it anew with seed N first\n"
    "The last line of each round is RESULT ok|failed name=value ...; exit status 0, 1 (failed) or\n"
    "2 (usage).\n";

struct options {
  unsigned long node;
  uint64_t size_bytes;
  uint64_t seed;
  uint64_t rounds;
  const char* file;
  const char* load;
  bool has_node, has_seed, verify_only, hold;
};

static void fail(const char* what) {
  printf("RESULT failed error=\"%s: %s\"\n", what, strerror(errno));
  exit(1);
}

static void usage(void) {
  fputs(usage_text, stderr);
  exit(2);
}

static uint64_t parse_number(const char* text, bool with_unit) {
  char* end = NULL;
  errno = 0;
  uint64_t value = strtoull(text, &end, 0);
  unsigned shift = 0;
  if (with_unit && *end != '\0') {
    shift = *end == 'K' ? 10U : *end == 'M' ? 20U : *end == 'G' ? 30U : 0U;
    end += shift != 0;
  }
  if (errno != 0 || end == text || *end != '\0' || value > (UINT64_MAX >> shift)) {
    usage();
  }
  return value << shift;
}

static struct options parse_options(int argc, char** argv) {
  static const struct option names[] = {
      {"node", required_argument, NULL, 'n'},
      {"size", required_argument, NULL, 's'},
      {"seed", required_argument, NULL, 'r'},
      {"file", required_argument, NULL, 'f'},
      {"verify-only", no_argument, NULL, 'v'},
      {"hold", no_argument, NULL, 'h'},
      {"load", required_argument, NULL, 'l'},
      {"rounds", required_argument, NULL, 'c'},
      {NULL, 0, NULL, 0},
  };
  struct options o = {.rounds = 1};
  for (int c = 0; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
    switch (c) {
      case 'n':
        o.node = parse_number(optarg, false);
        o.has_node = true;
        break;
      case 's':
        o.size_bytes = parse_number(optarg, true);
        break;
      case 'r':
        o.seed = parse_number(optarg, false);
        o.has_seed = true;
        break;
      case 'f':
        o.file = optarg;
        break;
      case 'l':
        o.load = optarg;
        break;
      case 'c':
        o.rounds = parse_number(optarg, false);
        break;
      case 'v':
        o.verify_only = true;
        break;
      case 'h':
        o.hold = true;
        break;
      default:
        usage();
    }
  }
  if (optind != argc || !o.has_node || !o.has_seed || o.size_bytes == 0 ||
      o.node >= sizeof(unsigned long) * CHAR_BIT || (o.verify_only && o.file == NULL) ||
      (o.verify_only && o.load != NULL) || o.rounds == 0) {
    usage();
  }
  o.size_bytes = (o.size_bytes + PATTERN_PAGE_BYTES - 1) & ~(uint64_t)(PATTERN_PAGE_BYTES - 1);
  return o;
}

static unsigned char* map_memory(const struct options* o) {
  int fd = -1;
  if (o->file != NULL) {
    fd = open(o->file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || (!o->verify_only && ftruncate(fd, (off_t)o->size_bytes) != 0)) {
      fail(o->file);
    }
  }
  void* memory = mmap(NULL, o->size_bytes, PROT_READ | PROT_WRITE,
                      o->file != NULL ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
  if (memory == MAP_FAILED) {
    fail("mmap");
  }
  /* The kernel takes one bit less than it is told. */
  unsigned long nodes[2] = {1UL << o->node, 0};
  if (syscall(SYS_mbind, memory, o->size_bytes, POLICY_BIND, nodes,
              sizeof(unsigned long) * CHAR_BIT + 1, MOVE_STRICT) != 0) {
    fail("mbind");
  }
  return memory;
}

/* The device stores into the memory behind the processor's back. */
static void load_from_disk(unsigned char* memory, const struct options* o) {
  enum { BLOCK = 256 * 1024 };
  int fd = open(o->load, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0) {
    fail(o->load);
  }
  memset(memory, 0x5a, o->size_bytes);
  for (uint64_t offset = 0; offset < o->size_bytes;) {
    uint64_t rest = o->size_bytes - offset;
    ssize_t got = pread(fd, memory + offset, rest < BLOCK ? rest : BLOCK, (off_t)offset);
    if (got <= 0) {
      fail(o->load);
    }
    offset += (uint64_t)got;
  }
  close(fd);
}

static void fill(unsigned char* memory, const struct options* o) {
  for (uint64_t i = 0; i < o->size_bytes / PATTERN_PAGE_BYTES; i++) {
    pattern_fill(memory + i * PATTERN_PAGE_BYTES, o->seed, i);
  }
}

static uint64_t count_intact(const unsigned char* memory, const struct options* o) {
  uint64_t intact = 0;
  for (uint64_t i = 0; i < o->size_bytes / PATTERN_PAGE_BYTES; i++) {
    uint64_t seed = 0;
    uint64_t index = 0;
    enum pattern_state state = pattern_check(memory + i * PATTERN_PAGE_BYTES, &seed, &index);
    intact += state == PATTERN_INTACT && seed == o->seed && index == i;
  }
  return intact;
}

static uint64_t count_on_node(unsigned char* memory, const struct options* o) {
  enum { BATCH = 512 };
  uint64_t on_node = 0;
  uint64_t pages = o->size_bytes / PATTERN_PAGE_BYTES;
  for (uint64_t first = 0; first < pages; first += BATCH) {
    void* addresses[BATCH];
    int nodes[BATCH];
    unsigned long count = pages - first < BATCH ? pages - first : BATCH;
    for (unsigned long i = 0; i < count; i++) {
      addresses[i] = memory + (first + i) * PATTERN_PAGE_BYTES;
    }
    if (syscall(SYS_move_pages, 0, count, addresses, NULL, nodes, 0) != 0) {
      fail("move_pages");
    }
    for (unsigned long i = 0; i < count; i++) {
      on_node += nodes[i] == (int)o->node;
    }
  }
  return on_node;
}

static bool verify_and_report(unsigned char* memory, const struct options* o) {
  uint64_t pages = o->size_bytes / PATTERN_PAGE_BYTES;
  uint64_t intact = count_intact(memory, o);
  uint64_t on_node = count_on_node(memory, o);
  bool ok = intact == pages && on_node == pages;
  printf("RESULT %s node=%lu pages=%" PRIu64 " intact=%" PRIu64 " on_node=%" PRIu64 " seed=%" PRIu64
         "\n",
         ok ? "ok" : "failed", o->node, pages, intact, on_node, o->seed);
  return ok;
}

int main(int argc, char** argv) {
  struct options o = parse_options(argc, argv);
  setvbuf(stdout, NULL, _IOLBF, 0);
  unsigned char* memory = map_memory(&o);
  if (o.load == NULL && !o.verify_only) {
    fill(memory, &o);
  }
  bool ok = true;
  for (uint64_t round = 0; round < o.rounds; round++) {
    if (o.load != NULL) {
      load_from_disk(memory, &o);
    }
    ok = verify_and_report(memory, &o) && ok;
  }
  char line[64];
  while (o.hold && fgets(line, sizeof line, stdin) != NULL) {
    if (strncmp(line, "fill ", 5) == 0) {
      line[strcspn(line, "\n")] = '\0';
      o.seed = parse_number(line + 5, false);
      fill(memory, &o);
    }
    ok = verify_and_report(memory, &o) && ok;
  }
  return ok ? 0 : 1;
}
