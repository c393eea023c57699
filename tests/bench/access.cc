// SPDX-License-Identifier: BSD-3-Clause
//
// Random 8-byte accesses. Reads depend on each other (the next address needs the value read), so
// that the latency of the page walk counts; writes do not.
#include <sched.h>
#include <sys/mman.h>
#include <tiering/region.h>

#include <pcow/units.h>
#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tests/bench/benchmarks.h"
#include "tests/bench/medium.h"
#include "tests/bench/pairs.h"

namespace bench {
namespace {

// In one run: about as long as the scheduler lets a thread be, so that most runs are undisturbed.
constexpr uint64_t kAccesses = uint64_t{1} << 16;
constexpr double kBound = 1.05;
constexpr uint64_t kTurn = 2 * pcow::kMiB;  // what one side fills before the other's turn

struct Memory {
  std::byte* base = nullptr;
  uint64_t size = 0;
  // The "software-lookup" variant: where each chunk lies, as user space would keep it.
  const std::vector<std::byte*>* table = nullptr;

  std::byte* at(uint64_t offset) const {
    if (table == nullptr) return base + offset;
    const std::byte* volatile* entry =
        const_cast<const std::byte* volatile*>(&(*table)[offset / pcow::kPageSize]);
    return const_cast<std::byte*>(*entry) + offset % pcow::kPageSize;
  }
};

// Keeps the scheduler from moving the two sides of a pair to different caches.
void pin_to_this_cpu() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(std::max(0, sched_getcpu())), &set);
  sched_setaffinity(0, sizeof set, &set);
}

double read_run(const Memory& memory, Random& random) {
  uint64_t next = random.next();
  const uint64_t mask = memory.size / 8 - 1;
  const double start = thread_seconds();
  for (uint64_t i = 0; i < kAccesses; ++i) {
    const uint64_t value =
        *reinterpret_cast<const volatile uint64_t*>(memory.at((next & mask) * 8));
    // The value must be waited for, but must not lead both sides to different addresses.
    next = next * 6364136223846793005 + 1442695040888963407 + (value & 0);
    next ^= next >> 29;
    asm volatile("" : "+r"(next) : "r"(value));
  }
  return (thread_seconds() - start) * 1e9 / kAccesses;
}

double write_run(const Memory& memory, Random& random) {
  uint64_t next = random.next();
  const uint64_t mask = memory.size / 8 - 1;
  const double start = thread_seconds();
  for (uint64_t i = 0; i < kAccesses; ++i) {
    *reinterpret_cast<volatile uint64_t*>(memory.at((next & mask) * 8)) = next | 1;
    next = next * 6364136223846793005 + 1442695040888963407;
    next ^= next >> 29;
  }
  return (thread_seconds() - start) * 1e9 / kAccesses;
}

void touch_for_reading(const Memory& memory) {
  for (uint64_t at = 0; at < memory.size; at += pcow::kPageSize) {
    (void)*reinterpret_cast<const volatile uint64_t*>(memory.base + at);
  }
}

void touch_for_writing(const Memory& memory, uint64_t offset, uint64_t length) {
  for (uint64_t at = offset; at < offset + length; at += pcow::kPageSize) {
    *reinterpret_cast<volatile uint64_t*>(memory.base + at) = at + 1;
  }
}

// Where pages lie in the machine's memory makes a difference of 10 % between two raw files that are
// filled one after the other, and between pages that were free and pages that have just been freed.
// So both sides get their pages in turns, and take turns at being the first.
template <typename One, typename Other>
void in_turns(uint64_t at, One one, Other other) {
  if (at / kTurn % 2 == 0) one();
  other();
  if (at / kTurn % 2 != 0) one();
}

void make_huge(tiering::Region& region, pcow::ChunkIndex chunk) {
  must(region.prepare_moves(
      {.demotions = {}, .watched = {}, .huge = std::span<const pcow::ChunkIndex>(&chunk, 1)}));
  must(region.barrier());
  must(region.commit_epoch());
}

// A region over an image all of whose pages hold data, and a raw file of the same size.
class Subjects {
 public:
  Subjects(const std::string& directory, uint64_t size) : raw_(directory + "/raw", size) {
    const std::string path = directory + "/image";
    must(pcow::Image::create(path, {.virtual_size = size}));
    image_ = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
    for (uint64_t at = 0; at < size; at += kTurn) {
      in_turns(
          at, [&] { fill_image(*image_, at, kTurn); }, [&] { raw_.fill(at, kTurn); });
    }
    must(image_->commit());
    region_ = must(tiering::Region::map(*image_, {}));
  }
  const RawFile& raw() const { return raw_; }
  Memory memory() const { return {region_->base(), region_->size()}; }

 private:
  RawFile raw_;
  std::unique_ptr<pcow::Image> image_;
  std::unique_ptr<tiering::Region> region_;
};

class Bench {
 public:
  Bench(const Options& options, Report& report) : options_(options), report_(report) {}

  // On 4 KiB pages: reads, then writes once every page was copied.
  void small_pages(const WorkDirectory& directory, uint64_t size);
  // On a medium with 2 MiB pages: reads, where the mappings keep them.
  void huge_pages(const WorkDirectory& directory, uint64_t size);
  // All of a region in huge chunks: reads.
  void huge_chunks(const WorkDirectory& directory, uint64_t size);

 private:
  using Run = double (*)(const Memory&, Random&);

  Memory broken(const Memory& memory);
  void compare(const std::string& name, const std::string& peer_name, Run run, const Memory& memory,
               const Memory& peer, std::optional<double> bound, const std::string& note);

  const Options& options_;
  Report& report_;
  std::vector<std::byte*> table_;
};

Memory Bench::broken(const Memory& memory) {
  if (options_.broken != "software-lookup") return memory;
  table_.resize(memory.size / pcow::kPageSize);
  for (size_t i = 0; i < table_.size(); ++i) table_[i] = memory.base + i * pcow::kPageSize;
  Memory result = memory;
  result.table = &table_;
  return result;
}

void Bench::compare(const std::string& name, const std::string& peer_name, Run run,
                    const Memory& memory, const Memory& peer, std::optional<double> bound,
                    const std::string& note) {
  // Both sides visit the same offsets.
  Random value_random(options_.seed);
  Random peer_random(options_.seed);
  const Memory used = broken(memory);
  const Pairs pairs = measure_pairs(
      options_.seconds, [&] { return run(used, value_random); },
      [&] { return run(peer, peer_random); });
  report_.add({.name = name,
               .value = pairs.value,
               .unit = "ns",
               .peer = peer_name,
               .peer_value = pairs.peer,
               .ratio = pairs.ratio,
               .bound = bound,
               .note = std::to_string(pairs.count) + " pairs of 64 Ki accesses over " +
                       pcow::format_size(memory.size) + (note.empty() ? "" : "; " + note)});
}

void Bench::small_pages(const WorkDirectory& directory, uint64_t size) {
  const Subjects subjects(directory.path(), size);
  const std::string& raw = subjects.raw().path();
  const Memory region = subjects.memory();
  touch_for_reading(region);
  {
    const auto mapped = map_raw(raw, size, false);
    const Memory peer{mapped.base(), size};
    touch_for_reading(peer);
    compare("read", "raw file, private mapping", read_run, region, peer, kBound, "");
  }
  {
    const auto mapped = map_raw(raw, size, true);
    const Memory peer{mapped.base(), size};
    touch_for_reading(peer);
    compare("read (shared peer)", "raw file, shared mapping", read_run, region, peer, {}, "");
  }
  {
    const auto mapped = map_raw(raw, size, false);
    const Memory peer{mapped.base(), size};
    for (uint64_t at = 0; at < size; at += kTurn) {
      in_turns(
          at, [&] { touch_for_writing(region, at, kTurn); },
          [&] { touch_for_writing(peer, at, kTurn); });
      subjects.raw().punch(at, kTurn);  // the peer has its own copies now: saves memory
    }
    compare("write", "raw file, private mapping", write_run, region, peer, kBound,
            "after the first store to each page");
  }
  const auto mapped = map_raw(raw, size, true);
  const Memory peer{mapped.base(), size};
  touch_for_writing(peer, 0, size);
  compare("write (shared peer)", "raw file, shared mapping", write_run, region, peer, {},
          "after the first store to each page");
}

void Bench::huge_pages(const WorkDirectory& directory, uint64_t size) {
  const std::string name = "read, medium with 2 MiB pages";
  std::string why_not;
  const auto medium = HugeTmpfs::mount(directory, why_not);
  if (!medium) {
    report_.add({.name = name, .value = 0, .unit = "ns", .peer = "not measured", .note = why_not});
    return;
  }
  const WorkDirectory inside(medium->path());
  const Subjects subjects(inside.path(), size);
  const Memory region = subjects.memory();
  const auto mapped = map_raw(subjects.raw().path(), size, false);
  const Memory peer{mapped.base(), size};
  if (options_.broken == "no-huge-pages") madvise(region.base, size, MADV_NOHUGEPAGE);
  touch_for_reading(region);
  touch_for_reading(peer);
  const auto percent = [&](const std::byte* base) {
    return std::to_string(huge_mapped_bytes(base, size) * 100 / size) + " %";
  };
  compare(
      name, "raw file, private mapping", read_run, region, peer, kBound,
      "mapped by 2 MiB entries: region " + percent(region.base) + ", peer " + percent(peer.base));
}

void Bench::huge_chunks(const WorkDirectory& directory, uint64_t size) {
  const std::string path = directory.file("hot");
  must(pcow::Image::create(path, {.virtual_size = size}));
  const auto image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
  fill_image(*image, 0, size);
  must(image->commit());
  const auto region =
      must(tiering::Region::map(*image, {.persistence = tiering::Persistence::kEpoch}));
  const auto anonymous = map_anonymous(size);
  madvise(anonymous.base(), size, MADV_HUGEPAGE);
  const Memory memory{region->base(), size};
  const Memory peer{anonymous.base(), size};
  for (uint64_t at = 0; at < size; at += kTurn) {
    in_turns(
        at, [&] { make_huge(*region, pcow::ChunkIndex(at / pcow::kChunkSize)); },
        [&] { touch_for_writing(peer, at, kTurn); });
  }
  const auto percent = [&](uint64_t bytes) { return std::to_string(bytes * 100 / size) + " %"; };
  compare("read, huge chunks", "anonymous memory with 2 MiB pages", read_run, memory, peer, kBound,
          "2 MiB pages: region " + percent(huge_mapped_bytes(memory.base, size)) + ", peer " +
              percent(huge_mapped_bytes(peer.base, size)));
}

}  // namespace

void run_access(const Options& options, Report& report) {
  const uint64_t size = options.quick ? pcow::kGiB : 4 * pcow::kGiB;
  // Image, raw file, and private copies of both, while the raw file shrinks.
  const uint64_t needed = 3 * size + pcow::kGiB;
  if (available_memory() < needed) {
    fail("not enough memory: " + pcow::format_size(needed) + " needed, " +
         pcow::format_size(available_memory()) + " available; use --quick");
  }
  pin_to_this_cpu();
  Bench bench(options, report);
  if (options.broken != "no-huge-pages") {
    const WorkDirectory directory(options.medium);
    bench.small_pages(directory, size);
  }
  const WorkDirectory directory(options.medium);
  bench.huge_pages(directory, size);
  bench.huge_chunks(directory, size);
}

}  // namespace bench
