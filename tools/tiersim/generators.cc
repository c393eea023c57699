// SPDX-License-Identifier: BSD-3-Clause
//
// Every generator draws the pages of single accesses and leaves the rest to SampledTrace: which
// accesses are writes, and which line of the page they go to.
//
// One page in kPagesPerWritten is written, with every second access; the others are only read.
// Lines are drawn as skewed as pages: records have fields that change, pages have a busy end.
#include "tools/tiersim/generators.h"

#include <pcow/units.h>
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "tools/tiersim/random.h"

namespace tiersim {
namespace {

using pcow::kLinesPerPage;

constexpr uint64_t kPagesPerWritten = 16;
constexpr double kZipfExponent = 0.99;
constexpr uint64_t kPhaseEpochs = 100;
constexpr uint64_t kScanEpochs = 8;  // for one pass over all pages

// Draws ranks with probability proportional to 1 / (rank + 1)^kZipfExponent.
class Zipf {
 public:
  explicit Zipf(uint64_t ranks) : sums_(ranks) {
    double sum = 0;
    for (uint64_t rank = 0; rank < ranks; ++rank) {
      sum += std::pow(static_cast<double>(rank + 1), -kZipfExponent);
      sums_[rank] = sum;
    }
  }

  uint64_t draw(Random& random) const {
    const auto at = std::ranges::upper_bound(sums_, random.unit() * sums_.back());
    return std::min<uint64_t>(static_cast<uint64_t>(at - sums_.begin()), sums_.size() - 1);
  }

 private:
  std::vector<double> sums_;
};

class SampledTrace : public TraceSource {
 public:
  explicit SampledTrace(const GeneratorOptions& options)
      : options_(options), random_(options.seed), lines_(kLinesPerPage) {}

  uint64_t pages() const override { return options_.pages; }
  uint64_t epochs() const override { return options_.epochs; }

  const std::vector<Access>& next() override {
    const uint64_t count = options_.accesses_per_page * pages();
    accesses_.clear();
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t page = draw(i, count);
      const bool write = is_written(page) && random_.below(2) == 0;
      accesses_.push_back({page, 1, uint64_t{1} << line_of(page), write});
    }
    ++epoch_;
    return accesses_;
  }

 protected:
  // The page of access number `i` of `count` in this epoch.
  virtual uint64_t draw(uint64_t i, uint64_t count) = 0;

  uint64_t epoch() const { return epoch_; }
  Random& random() { return random_; }

 private:
  bool is_written(uint64_t page) const { return mix(page + options_.seed) % kPagesPerWritten == 0; }
  // Busy lines are elsewhere in every page.
  uint64_t line_of(uint64_t page) { return (lines_.draw(random_) + mix(page)) % kLinesPerPage; }

  GeneratorOptions options_;
  Random random_;
  Zipf lines_;
  std::vector<Access> accesses_;
  uint64_t epoch_ = 0;
};

// Page numbers of ranks: a random permutation, so that hot pages are scattered.
std::vector<uint32_t> shuffled(uint64_t pages, Random& random) {
  std::vector<uint32_t> order(pages);
  std::iota(order.begin(), order.end(), 0U);
  for (uint64_t i = pages; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

class ZipfTrace : public SampledTrace {
 public:
  explicit ZipfTrace(const GeneratorOptions& options)
      : SampledTrace(options), zipf_(options.pages), order_(shuffled(options.pages, random())) {}

 protected:
  uint64_t draw(uint64_t /*i*/, uint64_t /*count*/) override {
    return order_[zipf_.draw(random())];
  }

 private:
  Zipf zipf_;
  std::vector<uint32_t> order_;
};

class ScanTrace : public SampledTrace {
 public:
  using SampledTrace::SampledTrace;

 protected:
  uint64_t draw(uint64_t i, uint64_t count) override {
    const uint64_t part = epoch() % kScanEpochs;
    return (part * count + i) * pages() / (kScanEpochs * count);
  }
};

// 9 of 10 accesses go to a fifth of the pages, the others to any; every kPhaseEpochs to another
// fifth.
class PhaseTrace : public SampledTrace {
 public:
  explicit PhaseTrace(const GeneratorOptions& options)
      : SampledTrace(options), order_(shuffled(options.pages, random())) {}

 protected:
  uint64_t draw(uint64_t /*i*/, uint64_t /*count*/) override {
    if (random().below(10) == 0) return random().below(pages());
    const uint64_t fifth = std::max<uint64_t>(1, pages() / 5);
    const uint64_t start = epoch() / kPhaseEpochs * fifth;
    return order_[(start + random().below(fifth)) % pages()];
  }

 private:
  std::vector<uint32_t> order_;
};

// A working set, accessed evenly, that grows from a twentieth of the pages to all and shrinks
// again.
class SweepTrace : public SampledTrace {
 public:
  explicit SweepTrace(const GeneratorOptions& options)
      : SampledTrace(options), order_(shuffled(options.pages, random())) {}

 protected:
  uint64_t draw(uint64_t /*i*/, uint64_t /*count*/) override {
    const uint64_t half = std::max<uint64_t>(1, epochs() / 2);
    const uint64_t step = epoch() < half ? epoch() : epochs() - epoch();
    const uint64_t least = pages() / 20;
    const uint64_t size = least + (pages() - least) * std::min(step, half) / half;
    return order_[random().below(std::max<uint64_t>(1, size))];
  }

 private:
  std::vector<uint32_t> order_;
};

// Zipf, and one access in five belongs to a scan over all pages.
class MixedTrace : public ZipfTrace {
 public:
  using ZipfTrace::ZipfTrace;

 protected:
  uint64_t draw(uint64_t i, uint64_t count) override {
    if (random().below(5) != 0) return ZipfTrace::draw(i, count);
    const uint64_t part = epoch() % kScanEpochs;
    return (part * count + i) * pages() / (kScanEpochs * count);
  }
};

template <typename Trace>
std::unique_ptr<TraceSource> make(const GeneratorOptions& options) {
  return std::make_unique<Trace>(options);
}

constexpr std::array kGenerators = {
    Generator{"zipf", "Zipf(0.99) over scattered pages", make<ZipfTrace>},
    Generator{"scan", "sequential, over and over, one pass in 8 epochs", make<ScanTrace>},
    Generator{"phase", "9 of 10 accesses to a fifth, another one every 100 epochs",
              make<PhaseTrace>},
    Generator{"sweep", "working set grows from 5 % to everything and shrinks", make<SweepTrace>},
    Generator{"mixed", "4 of 5 accesses as zipf, 1 as scan", make<MixedTrace>},
};

}  // namespace

std::span<const Generator> generators() { return kGenerators; }

}  // namespace tiersim
