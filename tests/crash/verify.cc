// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/verify.h"

#include <pcow/image.h>
#include <pcow/scrub.h>
#include <array>

#include "tests/crash/sim_medium.h"

namespace crash {
namespace {

using pcow::Image;
using pcow::Result;

Result<std::unique_ptr<Image>> open_for_writing() {
  pcow::OpenOptions options;
  options.access = pcow::Access::kReadWrite;
  options.base = pcow::BaseAccess::kFollow;
  return Image::open(kImagePath, options);
}

std::optional<std::string> damage(bool superblock_may_be_torn, uint64_t* leaked_bytes = nullptr) {
  const Result<pcow::ScrubReport> scrub = pcow::scrub_image(kImagePath, {});
  if (!scrub) return "check fails: " + scrub.error().message;
  if (!scrub->bad.empty()) {
    return "data does not fit its checksum at offset " +
           std::to_string(scrub->bad.front().file_offset);
  }
  const pcow::CheckReport* report = &scrub->check;
  if (leaked_bytes != nullptr) *leaked_bytes = report->leaked_bytes;
  std::array<uint64_t, 2> torn{};  // copies, of each file
  for (const std::string& message : report->messages) {
    if (!message.starts_with("corrupt:")) continue;
    const bool superblock = message.starts_with("corrupt: superblock copy");
    const size_t file = message.find(" of member ") == std::string::npos ? 0 : 1;
    if (superblock_may_be_torn && superblock && ++torn.at(file) == 1) continue;
    return "check says '" + message + "'";
  }
  return std::nullopt;
}

std::optional<std::string> wrong_after_close(Image& image) {
  if (const Result<void> closed = image.close(); !closed) {
    return "closing it fails: " + closed.error().message;
  }
  return std::nullopt;
}

// A repair goes on where one was cut off.
std::optional<std::string> wrong_after_repair() {
  const Result<pcow::RepairReport> report =
      pcow::repair_image(kImagePath, pcow::Repair::kLeaks, {});
  if (!report) return "repairing it fails: " + report.error().message;
  if (!report->refused.empty()) return "a repair is refused: " + report->refused.front();
  uint64_t leaked = 0;
  if (auto wrong = damage(false, &leaked)) return "after a repair " + *wrong;
  if (leaked > 0) return std::to_string(leaked) + " bytes stay leaked after a repair";
  return std::nullopt;
}

// What a crash leaks is to be had back.
std::optional<std::string> wrong_after_reclaim() {
  Result<std::unique_ptr<Image>> image = open_for_writing();
  if (!image) return "it cannot be opened again: " + image.error().message;
  const Result<uint64_t> freed = (*image)->reclaim_unowned();
  if (!freed) return "reclaiming space fails: " + freed.error().message;
  if (auto wrong = wrong_after_close(**image)) return wrong;
  image->reset();
  uint64_t leaked = 0;
  if (auto wrong = damage(false, &leaked)) return "after reclaiming space " + *wrong;
  if (leaked > 0) return std::to_string(leaked) + " bytes are lost for good";
  return std::nullopt;
}

// What the snapshots of a closed image keep.
std::optional<std::string> look_at_snapshots(Found& found) {
  for (auto& [name, snapshot] : found.snapshots) {
    pcow::OpenOptions options;
    options.snapshot = name;
    options.base = pcow::BaseAccess::kFollow;
    const Result<std::unique_ptr<Image>> image = Image::open(kImagePath, options);
    if (!image) return "snapshot '" + name + "' cannot be opened: " + image.error().message;
    Result<Found> content = look_at(**image);
    if (!content) return "reading snapshot '" + name + "' fails: " + content.error().message;
    snapshot.pages = std::move(content->pages);
  }
  return std::nullopt;
}

// What a read-only open shows; nothing if this state is not in the sample.
std::optional<Result<Found>> read_only_view(const SparseBytes& state) {
  constexpr uint64_t kOneIn = 4;
  if (state.digest() % kOneIn != 0) return std::nullopt;
  pcow::OpenOptions options;
  options.replay_in_memory = true;
  options.base = pcow::BaseAccess::kFollow;
  const Result<std::unique_ptr<Image>> image = Image::open(kImagePath, options);
  if (!image) return Result<Found>(tl::unexpected(image.error()));
  return look_at(**image);
}

}  // namespace

Result<Found> look_at(const Image& image) {
  Found found;
  const pcow::ImageInfo info = image.info();
  found.size = info.virtual_size;
  found.epoch = info.committed_epoch.value;
  found.clean = info.clean;
  PCOW_TRY(image.map(0, found.size, [&](const pcow::MapExtent& run) {
    for (uint64_t at = run.start; run.data && at < run.start + run.length; at += pcow::kPageSize) {
      found.pages[at / pcow::kPageSize].resize(pcow::kPageSize);
    }
  }));
  PCOW_TRY_ASSIGN(const std::vector<pcow::SnapshotInfo> snapshots, image.snapshots());
  for (const pcow::SnapshotInfo& snapshot : snapshots) {
    found.snapshots[snapshot.name].size = snapshot.virtual_size;
  }
  for (auto& [page, bytes] : found.pages) PCOW_TRY(image.read(page * pcow::kPageSize, bytes));
  return found;
}

Verdict verify(MediumKind kind, const SparseBytes& state, const Expectation& expected) {
  Verdict verdict;
  SimMedium& medium = SimMedium::get();
  medium.load(kind, state);
  const std::optional<std::string> raw_damage = damage(true);

  const std::optional<Result<Found>> read_only = read_only_view(state);

  verdict.recovery.base = state;
  medium.record(&verdict.recovery);
  Result<std::unique_ptr<Image>> image = open_for_writing();
  medium.record(nullptr);
  if (!image && expected.may_not_exist) return verdict;
  if (raw_damage) {
    verdict.wrong = "before recovery " + *raw_damage;
  } else if (!image) {
    verdict.wrong = "it cannot be opened: " + image.error().message;
  }
  if (verdict.wrong) return verdict;

  Result<Found> found = look_at(**image);
  if (!found) {
    verdict.wrong = "reading it fails: " + found.error().message;
    return verdict;
  }
  verdict.wrong = contradiction(*found, expected);
  if (!verdict.wrong && read_only && (!*read_only || (*read_only)->digest() != found->digest())) {
    verdict.wrong = "opened for reading it shows something else: " +
                    (*read_only ? "other content" : read_only->error().message);
  }
  verdict.found = *std::move(found);
  if (!verdict.wrong) verdict.wrong = wrong_after_close(**image);
  image->reset();
  if (!verdict.wrong) verdict.wrong = look_at_snapshots(*verdict.found);
  if (!verdict.wrong) verdict.wrong = contradiction(*verdict.found, expected);
  uint64_t leaked = 0;
  if (!verdict.wrong) verdict.wrong = damage(false, &leaked);
  if (!verdict.wrong && leaked > 0) {
    verdict.wrong = expected.leaks_more ? wrong_after_repair() : wrong_after_reclaim();
  }
  return verdict;
}

}  // namespace crash
