// SPDX-License-Identifier: BSD-3-Clause
#include <pcow/scrub.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "pcow/format/block.h"
#include "tests/crash/sim_medium.h"
#include "tests/crash/verify.h"
#include "tests/crash/workloads.h"

namespace crash {
namespace {

template <typename T>
T must(pcow::Result<T> result, const std::string& what) {
  if (!result) throw std::runtime_error(what + " fails: " + result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

// What the event did to the bytes that a process sees.
void apply(const Event& event, SparseBytes& bytes) {
  switch (event.kind) {
    case EventKind::kStore:
      return bytes.write(event.offset, event.bytes);
    case EventKind::kReserve:
      return bytes.reserve(event.offset, event.length);
    case EventKind::kPunch:
      return bytes.punch(event.offset, event.length);
    case EventKind::kResize:
      bytes.size_at(event.offset) = event.length;
      return bytes.drop_beyond_size();
    case EventKind::kDrain:
    case EventKind::kSync:
      return;
  }
}

// The base is a file in memory, not on the simulated medium: nobody writes to it. There are as many
// as an image has one after the other.
std::string write_base(size_t number, uint64_t size, const std::map<uint64_t, Version>& versions) {
  static std::vector<int> files;
  while (files.size() <= number) files.push_back(memfd_create("base", MFD_CLOEXEC));
  const int file = files[number];
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  bool ok = file >= 0 && ftruncate(file, 0) == 0 && ftruncate(file, static_cast<off_t>(size)) == 0;
  for (const auto& [page, version] : versions) {
    const std::vector<std::byte> content = page_content(page, version);
    ok = ok &&
         pwrite(file, content.data(), content.size(), static_cast<off_t>(page * pcow::kPageSize)) ==
             static_cast<ssize_t>(content.size());
  }
  if (!ok) throw std::runtime_error("the base image cannot be written");
  return path;
}

}  // namespace

Driver::Driver(MediumKind kind, uint64_t size, const std::vector<uint64_t>& base_pages,
               bool striped)
    : kind_(kind), striped_(striped), oracle_(size) {
  if (!base_pages.empty()) {
    std::map<uint64_t, Version> versions;
    for (const uint64_t page : base_pages) versions[page] = oracle_.new_version();
    base_ = write_base(bases_++, size, versions);
    oracle_.set_base(versions);
  }
  SimMedium::get().load(kind, std::nullopt);
  SimMedium::get().record(&trace_);
}

Driver::Driver(MediumKind kind, SparseBytes content, const Oracle& oracle)
    : kind_(kind), oracle_(oracle) {
  trace_.base = content;
  SimMedium::get().load(kind, std::move(content));
  SimMedium::get().record(&trace_);
}

Driver::~Driver() { SimMedium::get().record(nullptr); }

void Driver::start() {
  trace_.events.clear();
  trace_.base = SimMedium::get().content();
  steps_.clear();
}

void Driver::step(const std::string& name, Expectation in_flight,
                  const std::function<void()>& body) {
  SimMedium::get().set_step(steps_.size());
  body();
  steps_.push_back({name, std::move(in_flight), oracle_.after()});
}

void Driver::create() {
  step("create", oracle_.create(), [this] {
    pcow::CreateOptions options;
    options.virtual_size = oracle_.size();
    options.log_size = kLogSize;
    if (striped_) {
      options.stripe = {kMemberName};
      options.stripe_unit = pcow::kWindowSize;  // root and log in turn, too
    }
    if (base_) options.base = pcow::Base{*base_, pcow::BaseFormat::kRaw};
    must(pcow::Image::create(kImagePath, options), "create");
  });
}

void Driver::end_epoch() {
  if (oracle_.epoch_under_way()) commit();
}

void Driver::write(const std::vector<uint64_t>& pages, bool zero) {
  end_epoch();
  std::map<uint64_t, Version> versions;
  for (const uint64_t page : pages) versions[page] = zero ? 0 : oracle_.new_version();
  std::vector<std::vector<std::byte>> contents;
  std::vector<pcow::PageWrite> writes;
  contents.reserve(versions.size());
  for (const auto& [page, version] : versions) {
    contents.push_back(page_content(page, version));
    writes.push_back({pcow::PageIndex(page), contents.back().data()});
  }
  step("write " + std::to_string(pages.size()) + (zero ? " zero pages" : " pages"),
       oracle_.write(versions), [&] { must(image_->write_pages(writes), "write_pages"); });
}

void Driver::log(const std::map<uint64_t, Version>& pages) {
  std::vector<std::vector<std::byte>> contents;
  std::vector<pcow::PageWrite> writes;
  contents.reserve(pages.size());
  for (const auto& [page, version] : pages) {
    contents.push_back(page_content(page, version));
    writes.push_back({pcow::PageIndex(page), contents.back().data()});
  }
  bool full = false;
  step("log " + std::to_string(pages.size()) + " pages", oracle_.after(), [&] {
    const pcow::Result<pcow::LogReport> report = image_->log_pages(writes);
    full = !report && report.error().code == pcow::Code::kLogFull;
    if (full) return;
    oracle_.log(pages, must(report, "log_pages").changed_pages > 0);
  });
  if (!full) return;
  if (!oracle_.epoch_under_way()) throw std::runtime_error("an epoch of one call is too large");
  commit();
  log(pages);
}

void Driver::log_new(const std::vector<uint64_t>& pages) {
  std::map<uint64_t, Version> versions;
  for (const uint64_t page : pages) versions[page] = oracle_.new_version();
  log(versions);
}

void Driver::log_lines(uint64_t page, uint64_t mask) {
  log({{page, mix_lines(oracle_.content(page).value_or(0), oracle_.new_version(), mask)}});
}

void Driver::checkpoint(uint64_t pages_max) {
  step("checkpoint", oracle_.after(), [&] { must(image_->checkpoint(pages_max), "checkpoint"); });
}

void Driver::restart_epoch(uint64_t log_size) {
  step("restart the epoch", oracle_.restart_epoch(),
       [&] { must(image_->restart_epoch(log_size), "restart_epoch"); });
}

void Driver::commit() {
  step("commit", oracle_.commit(), [this] {
    const pcow::Epoch epoch = must(image_->commit(), "commit");
    if (epoch.value != oracle_.epoch()) throw std::runtime_error("commit returns another epoch");
  });
}

void Driver::discard(uint64_t first_page, uint64_t count) {
  end_epoch();
  bool changed = false;
  step("discard " + std::to_string(count) + " pages", oracle_.discard(first_page, count),
       [&] { changed = must(image_->discard(pcow::PageIndex(first_page), count), "discard") > 0; });
  oracle_.note_discard(changed);
}

void Driver::resize(uint64_t size) {
  end_epoch();
  step("resize to " + std::to_string(size), oracle_.resize(size),
       [&] { must(image_->resize(size, true), "resize"); });
}

void Driver::close() {
  step("close", oracle_.close(), [this] { must(image_->close(), "close"); });
  end_process(oracle_.after());
}

void Driver::open() {
  step("open", unsettled_ ? *unsettled_ : oracle_.reopen(), [this] {
    pcow::OpenOptions options;
    options.access = pcow::Access::kReadWrite;
    options.base = pcow::BaseAccess::kFollow;
    image_ = must(pcow::Image::open(kImagePath, options), "open");
    if (unsettled_) oracle_.adopt(must(look_at(*image_), "reading"), *unsettled_);
    unsettled_.reset();
  });
}

// The kernel takes the process off its processor, and the interrupt drains the stores that it
// flushed. The page cache is not written back.
void Driver::end_process(const Expectation& expected) {
  image_.reset();
  if (kind_ == MediumKind::kPage) return;
  SimMedium::get().set_step(steps_.size());
  SimMedium::get().drain();
  steps_.push_back({"end of the process", expected, expected});
}

void Driver::kill() { end_process(oracle_.after()); }

void Driver::kill_during(const std::function<void()>& operation, size_t events) {
  const size_t first = trace_.events.size();
  const size_t number = steps_.size();
  SparseBytes content = SimMedium::get().content();
  operation();
  image_.reset();
  steps_.resize(number + 1, {});  // without an end of the process of its own
  size_t n = first;
  for (; n < trace_.events.size() && trace_.events[n].step == number; ++n) {
    const bool counts = trace_.events[n].kind != EventKind::kReserve;
    if (counts && events-- == 0) break;
    apply(trace_.events[n], content);
  }
  trace_.events.resize(n);
  SimMedium::get().load(kind_, std::move(content));
  steps_.back().name += ", killed";
  steps_.back().after = steps_.back().in_flight;
  unsettled_ = steps_.back().in_flight;
  end_process(*unsettled_);
}

void Driver::reclaim() {
  step("reclaim", oracle_.after(), [this] { must(image_->reclaim_unowned(), "reclaim"); });
}

void Driver::leak() {
  SimMedium& medium = SimMedium::get();
  constexpr uint64_t kSlot = pcow::format::kLogOffset - 3 * pcow::format::kSlotSize;
  constexpr uint64_t kNumber = kSlot / pcow::format::kSlotSize;
  pcow::format::Block block;
  medium.content().read(pcow::format::kRootSlotMapOffset, block.bytes);
  uint8_t& byte = block.as<pcow::format::SlotMapBlock>().used[kNumber / 8];
  byte = static_cast<uint8_t>(byte | 1u << (kNumber % 8));
  pcow::format::seal(block);
  medium.store(pcow::format::kRootSlotMapOffset, block.bytes);
  medium.store(kSlot + pcow::kPageSize, page_content(1, 1));
  medium.reserve(pcow::kSegmentSize + 100 * pcow::kWindowSize, 3 * pcow::kPageSize);
}

void Driver::repair() {
  Expectation expected = oracle_.after();
  expected.leaks_more = true;
  step("repair", std::move(expected), [] {
    const pcow::RepairReport report =
        must(pcow::repair_image(kImagePath, pcow::Repair::kLeaks, {}), "repair");
    if (!report.refused.empty()) throw std::runtime_error("refused: " + report.refused.front());
    if (report.found.leaked_bytes == 0 || report.left.leaked_bytes != 0) {
      throw std::runtime_error("a repair gives back what was leaked");
    }
  });
}

void Driver::add_checksums() {
  step("add checksums", oracle_.after(), [] {
    if (must(pcow::add_checksums(kImagePath, {}), "add_checksums") == 0) {
      throw std::runtime_error("there is nothing to make checksums of");
    }
  });
}

void Driver::fold(uint64_t first_chunk, uint64_t count) {
  step("fold", oracle_.after(),
       [&] { must(image_->fold(pcow::ChunkIndex(first_chunk), count), "fold"); });
}

void Driver::create_snapshot(const std::string& name) {
  step("create snapshot " + name, oracle_.create_snapshot(name),
       [&] { must(image_->create_snapshot(name), "create_snapshot"); });
}

void Driver::delete_snapshot(const std::string& name) {
  end_epoch();
  step("delete snapshot " + name, oracle_.delete_snapshot(name),
       [&] { must(image_->delete_snapshot(name), "delete_snapshot"); });
}

void Driver::begin_deletion(const std::string& name) {
  end_epoch();
  step("begin to delete snapshot " + name, oracle_.delete_snapshot(name),
       [&] { must(image_->begin_deletion(name), "begin_deletion"); });
}

bool Driver::continue_deletion(uint64_t pages_max, bool mapped) {
  end_epoch();
  bool ended = false;
  step("continue deletion by " + std::to_string(pages_max) + " pages", oracle_.after(), [&] {
    const auto in_use = [&](const std::vector<pcow::FilePlace>&) { return mapped; };
    const auto report = must(image_->continue_deletion(pages_max, in_use), "continue_deletion");
    ended = report.done || report.waits;
  });
  return ended;
}

void Driver::apply_snapshot(const std::string& name) {
  step("apply snapshot " + name, oracle_.apply_snapshot(name),
       [&] { must(image_->apply_snapshot(name), "apply_snapshot"); });
}

void Driver::rebase(const std::vector<uint64_t>& base_pages) {
  std::optional<pcow::Base> base;
  if (!base_pages.empty()) {
    std::map<uint64_t, Version> versions;
    for (const uint64_t page : base_pages) versions[page] = oracle_.new_version();
    base = pcow::Base{write_base(bases_++, oracle_.size(), versions), pcow::BaseFormat::kRaw};
  }
  step("rebase", oracle_.rebase(), [&] { must(image_->rebase(base, {}), "rebase"); });
}

Recording Driver::finish() {
  image_.reset();
  SimMedium::get().record(nullptr);
  return {std::move(trace_), std::move(steps_), oracle_};
}

}  // namespace crash
