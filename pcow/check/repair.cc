// SPDX-License-Identifier: BSD-3-Clause
//
// Carries out what the checker plans (repair_plan.h), with the engine's log and superblocks: how an
// image is changed safely is written once.
//
//   check ──refused──► nothing is written
//     │ ╲
//     │  not closed cleanly ──► recover (a writable open), check again
//     ▼
//   holes, durable ──► batches of metadata, each a transaction ──► superblocks, closed cleanly
//
// Invariants
//  1. The lock is held from the check to the last store.
//  2. What becomes a hole is owned by nothing, and stays marked as in use until it is a hole for
//     certain. So a crash leaves space that is leaked still, or is a hole already.
//  3. Metadata changes in transactions of the log, each of which leaves the image sound or with
//     less wrong than before. A crash in one is recovered by whoever opens the image next.
//  4. The mark *corrupt* goes last, together with *dirty*.
//  5. A stripe set gets a new session before anything else changes, and with the last update again.
//  6. The generation stays: what a guest sees is the same, so images based on this one stay right.
#include <optional>
#include <utility>

#include "pcow/base/no_memory.h"
#include "pcow/check/checker.h"
#include "pcow/check/image_reader.h"
#include "pcow/engine/metadata_store.h"
#include "pcow/engine/redo_log.h"
#include "pcow/engine/stripe_set.h"
#include "pcow/engine/superblock_store.h"
#include "pcow/media/media.h"

namespace pcow {
namespace {

using format::Superblock;
using Progress = std::function<void(uint64_t, uint64_t)>;

class Surgeon {
 public:
  // `first`: the first file, locked, which stays open elsewhere.
  static Result<Surgeon> open(const File& first);

  Result<void> carry_out(const RepairPlan& plan);
  Result<void> mark_corrupt();

 private:
  using Pages = std::map<uint64_t, format::Block>;
  static constexpr size_t kAtOnce = 512;  // pages a transaction: they fit in any log

  Surgeon(std::unique_ptr<Media> media, SuperblockStore superblocks, StripeSet stripe)
      : media_(std::move(media)),
        superblocks_(std::move(superblocks)),
        stripe_(std::move(stripe)),
        log_(*media_, position()) {}

  LogPosition position() const {
    const Superblock& sb = superblocks_.current();
    return {sb.log_offset, sb.log_size, sb.log_generation, sb.log_tail};
  }
  // REQUIRES: what the log holds is stored and durable.
  Result<void> empty_log_and_mark(uint32_t state);
  Result<void> store_batch(Pages::const_iterator first, Pages::const_iterator end);
  Result<void> store_pages(const Pages& pages);

  std::unique_ptr<Media> media_;
  SuperblockStore superblocks_;
  StripeSet stripe_;
  RedoLog log_;
};

Result<Surgeon> Surgeon::open(const File& first) {
  PCOW_TRY_ASSIGN(File file, first.duplicate());
  ImageFile all(std::move(file));
  PCOW_TRY_ASSIGN(SuperblockStore superblocks, SuperblockStore::load(all));
  OpenOptions options;
  options.access = Access::kReadWrite;
  OpenFiles files;
  PCOW_TRY_ASSIGN(StripeSet stripe,
                  StripeSet::open(all, superblocks.current(), options, true, files));
  PCOW_TRY_ASSIGN(std::unique_ptr<Media> media, Media::open(std::move(all), Access::kReadWrite));
  return Surgeon(std::move(media), std::move(superblocks), std::move(stripe));
}

Result<void> Surgeon::empty_log_and_mark(uint32_t state) {
  Superblock next = superblocks_.current();
  const LogPosition emptied = log_.emptied(next.log_generation + 1, next.log_size, next.log_offset);
  next.state = state;
  next.log_generation = emptied.generation;
  next.log_tail = emptied.tail;
  next.autoclear = next.autoclear & format::kAutoclearKept;
  stripe_.take_session(next);
  PCOW_TRY(superblocks_.update(*media_, next));
  log_.reset(emptied);
  return {};
}

Result<void> Surgeon::store_batch(Pages::const_iterator first, Pages::const_iterator end) {
  const Superblock& sb = superblocks_.current();
  PCOW_TRY(empty_log_and_mark(sb.state | format::kStateDirty));
  MetadataStore store(*media_, sb.uuid);
  for (auto page = first; page != end; ++page) {
    PCOW_TRY_ASSIGN(format::Block * block, store.modify_raw_page(page->first));
    *block = page->second;
  }
  const std::vector<RedoLog::Change> changes = store.seal_changes();
  PCOW_TRY(log_.reserve(RedoLog::size_bound(changes)));
  PCOW_TRY(store.reserve_places());
  PCOW_TRY(log_.append(changes, Epoch(sb.checkpointed_epoch)));
  PCOW_TRY(store.checkpoint(changes));
  return media_->flush();
}

// Pages of one slot are of one structure: they change together.
Result<void> Surgeon::store_pages(const Pages& pages) {
  const auto slot = [](const auto& page) { return page->first / format::kSlotSize; };
  for (auto first = pages.begin(); first != pages.end();) {
    auto end = first;
    size_t count = 0;
    while (end != pages.end() && (count < kAtOnce || slot(end) == slot(std::prev(end)))) {
      ++end;
      ++count;
    }
    PCOW_TRY(store_batch(first, end));
    first = end;
  }
  return {};
}

Result<void> Surgeon::carry_out(const RepairPlan& plan) {
  const Superblock& sb = superblocks_.current();
  const bool changes_space = !plan.holes.empty() || !plan.pages.empty();
  // Features that are unknown here may promise something about any byte of the file.
  const bool other_promises = (sb.autoclear & ~format::kAutoclearKept) != 0;
  const bool striped = !stripe_.names().empty();
  const bool dirty = !plan.pages.empty() || (changes_space && (other_promises || striped));
  if (dirty) {
    PCOW_TRY(stripe_.begin_session(*media_, superblocks_));
    PCOW_TRY(empty_log_and_mark(sb.state | format::kStateDirty));
  }
  for (const RepairPlan::Range& hole : plan.holes) {
    PCOW_TRY(media_->file().punch(hole.offset, hole.length));
  }
  if (!plan.holes.empty()) PCOW_TRY(media_->flush());
  PCOW_TRY(store_pages(plan.pages));
  const uint32_t cleared = format::kStateDirty | (plan.unmark ? format::kStateCorrupt : 0);
  const bool superblock = dirty || plan.unmark || plan.superblock_copy;
  if (superblock) {
    PCOW_TRY(stripe_.begin_session(*media_, superblocks_));
    PCOW_TRY(empty_log_and_mark(sb.state & ~cleared));
  }
  PCOW_TRY(media_->flush());
  // The image is clean already. What is not given back here, the next check finds.
  return dirty ? media_->file().punch(sb.log_offset, sb.log_size) : Result<void>();
}

Result<void> Surgeon::mark_corrupt() {
  Superblock next = superblocks_.current();
  next.state = next.state | format::kStateCorrupt;
  PCOW_TRY(superblocks_.update(*media_, next));
  return media_->flush();
}

// What is wrong, and the lock that keeps it so: that of the first file, which nobody passes by.
struct Examination {
  File first;
  CheckReport report = {};
  RepairPlan plan = {};
};

Result<void> check(Examination& subject, const Progress& progress) {
  PCOW_TRY_ASSIGN(File file, subject.first.duplicate());
  ImageReader reader(std::move(file), false);
  Checker checker(reader, progress);
  PCOW_TRY_ASSIGN(subject.report, checker.run());
  subject.plan = checker.plan();
  return {};
}

Result<Examination> examine(const std::string& path, const Progress& progress) {
  PCOW_TRY_ASSIGN(File file, File::open(path, File::Mode::kReadWrite));
  PCOW_TRY(file.lock(true));
  Examination result{std::move(file)};
  PCOW_TRY(check(result, progress));
  return result;
}

Result<void> operate(const Examination& seen, bool refused) {
  PCOW_TRY_ASSIGN(Surgeon surgeon, Surgeon::open(seen.first));
  return refused ? surgeon.mark_corrupt() : surgeon.carry_out(seen.plan);
}

std::vector<std::string> why_not(const Examination& seen, Repair repair) {
  if (!seen.plan.unproven.empty()) return seen.plan.unproven;
  if (repair == Repair::kLeaks && seen.report.corruptions > 0) {
    return {"the image is damaged; 'pcow-img check -r all' can repair it"};
  }
  return {};
}

// As the next writer would. The base, if there is one, has no part in that.
Result<void> recover(const std::string& path) {
  OpenOptions options;
  options.access = Access::kReadWrite;
  options.base = BaseAccess::kIgnore;
  options.although_corrupt = true;
  PCOW_TRY_ASSIGN(const std::unique_ptr<Image> image, Image::open(path, options));
  return image->close();
}

Result<RepairReport> repair_steps(const std::string& path, Repair repair,
                                  const Progress& progress) {
  RepairReport result;
  std::optional<Examination> seen;
  const auto look = [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(seen, examine(path, progress));
    result.found = result.left = seen->report;
    result.refused = why_not(*seen, repair);
    return {};
  };
  PCOW_TRY(look());
  if (!result.refused.empty()) return result;
  if (!seen->report.clean) {
    seen.reset();
    PCOW_TRY(recover(path));
    PCOW_TRY(look());
    result.recovered = true;
    if (!seen->report.clean) {
      return make_error(Code::kBusy, "'" + path +
                                         "' was opened by another process meanwhile, and "
                                         "not closed cleanly: repair it again");
    }
  }
  if (!result.refused.empty()) {
    if (!seen->plan.unproven.empty()) PCOW_TRY(operate(*seen, true));
    return result;
  }
  if (seen->plan.empty()) return result;
  PCOW_TRY(operate(*seen, false));
  PCOW_TRY(check(*seen, progress));
  result.left = seen->report;
  return result;
}

}  // namespace

Result<RepairReport> repair_image(const std::string& path, Repair repair,
                                  const Progress& progress) {
  return memory_checked(path, [&] { return repair_steps(path, repair, progress); });
}

}  // namespace pcow
