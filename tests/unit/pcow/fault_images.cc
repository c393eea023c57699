// SPDX-License-Identifier: BSD-3-Clause
#include "tests/unit/pcow/fault_images.h"

#include <cerrno>
#include <fstream>
#include <optional>
#include <vector>

#include "tests/support/syscall_faults.h"

namespace test {

using pcow::Access;
using pcow::Base;
using pcow::BaseAccess;
using pcow::BaseFormat;
using pcow::Image;
using pcow::kChunkSize;
using pcow::kMiB;
using pcow::kPageSize;
using pcow::OpenOptions;

std::unique_ptr<Image> open_for(const std::string& path, Access access) {
  OpenOptions options;
  options.access = access;
  options.base = BaseAccess::kFollow;
  return must(Image::open(path, options));
}

void lay(PageValues& pages, const PageValues& over) {
  for (const auto& [page, value] : over) {
    if (value == 0) {
      pages.erase(page);
    } else {
      pages[page] = value;
    }
  }
}

void log_epoch(Image& image, const PageValues& pages) {
  must(image.log_pages(batch_of(pages).writes()));
}

const PageValues kFirstPages = {{0, 1},           {1, 2},           {2, 3},           {3, 4},
                                {511, 5},         {512, 6},         {kSecond - 1, 7}, {kSecond, 8},
                                {kSecond + 1, 9}, {kSecond + 2, 10}};
namespace {

const PageValues kLaterPages = {{0, 21},           {513, 22},         {kSecond, 23},
                                {kSecond + 1, 24}, {kSecond + 3, 25}, {kSecond + 513, 26}};

void write(Image& image, Shown& shown, const PageValues& pages) {
  must(image.write_pages(batch_of(pages).writes()));
  must(image.commit());
  lay(shown.active, pages);
}

void snapshot(Image& image, Shown& shown, const std::string& name) {
  must(image.create_snapshot(name));
  shown.snapshots[name] = shown.active;
}

std::unique_ptr<Image> new_image(const FaultWorld& world, const std::string& name,
                                 std::optional<Base> base = std::nullopt,
                                 const std::vector<std::string>& stripe = {}) {
  pcow::CreateOptions options;
  options.virtual_size = FaultWorld::kSize;
  options.log_size = 4 * kMiB;
  options.base = std::move(base);
  options.stripe = stripe;
  must(Image::create(world.path(name), options));
  return open_for(world.path(name));
}

Shown holding(const FaultWorld& world, const PageValues& pages,
              const std::vector<std::string>& stripe = {}) {
  const auto image = new_image(world, "vm.pcow", std::nullopt, stripe);
  Shown shown{FaultWorld::kSize, {}, {}, ""};
  write(*image, shown, pages);
  must(image->close());
  return shown;
}

}  // namespace

Shown plain(FaultWorld& world) { return holding(world, kFirstPages); }
Shown small(FaultWorld& world) { return holding(world, {{0, 1}, {1, 2}}); }
Shown set_of_files(FaultWorld& world) { return holding(world, {{0, 1}, {kSecond, 8}}, {"vm.1"}); }

Shown layers(FaultWorld& world) {
  const auto image = new_image(world, "vm.pcow");
  Shown shown{FaultWorld::kSize, {}, {}, ""};
  write(*image, shown,
        {{0, 1}, {1, 2}, {2, 3}, {511, 5}, {512, 6}, {kSecond - 1, 7}, {kSecond, 8}});
  snapshot(*image, shown, "a");
  write(*image, shown, kLaterPages);
  snapshot(*image, shown, "b");
  write(*image, shown, {{1, 31}, {2, 0}, {kThird + 100, 32}});
  snapshot(*image, shown, "c");
  write(*image, shown, {{0, 41}, {kSecond + 512, 42}, {kThird + 101, 43}});
  must(image->close());
  return shown;
}

Shown unclean(FaultWorld& world) {
  const Shown before = plain(world);
  const auto image = open_for(world.path());
  Shown shown = before;
  log_epoch(*image, kLaterPages);
  must(image->commit());
  lay(shown.active, kLaterPages);
  write(*image, shown, {{3, 51}, {kThird + 102, 52}});
  log_epoch(*image, {{3, 53}, {4, 54}});
  return shown;
}

Shown half_deleted(FaultWorld& world) {
  Shown shown = layers(world);
  const auto image = open_for(world.path());
  const FaultPlan plan(Call::kReserve, 8, ENOSPC, true);
  (void)image->delete_snapshot("b");
  shown.snapshots.erase("b");
  return shown;
}

Shown half_shrunk(FaultWorld& world) {
  Shown shown = plain(world);
  const auto image = open_for(world.path());
  const FaultPlan plan(Call::kPunch, 1, EIO, true);
  (void)image->resize(2 * kMiB, true);
  shown.size = 2 * kMiB;
  shown.active = {{0, 1}, {1, 2}, {2, 3}, {3, 4}, {511, 5}};
  return shown;
}

Shown based(FaultWorld& world) {
  Shown shown{FaultWorld::kSize, {}, {}, ""};
  Shown other = shown;
  const auto base = new_image(world, "base.pcow");
  write(*base, shown, kFirstPages);
  must(base->close());
  const auto next = new_image(world, "new.pcow");
  write(*next, other, {{0, 1}, {1, 61}, {510, 62}, {kThird + 103, 63}});
  must(next->close());
  const auto image = new_image(world, "vm.pcow", Base{"base.pcow", BaseFormat::kPcow});
  shown.base = "base.pcow";
  write(*image, shown, {{0, 71}, {2, 0}, {5, 72}, {kSecond + 3, 73}});
  must(image->close());
  return shown;
}

Shown raw_based(FaultWorld& world) {
  Shown shown{FaultWorld::kSize, {}, {}, "base.raw"};
  {
    std::ofstream file(world.path("base.raw"), std::ios::binary);
    for (uint64_t page = 0; page < 3; ++page) {
      const Page content = page_of(81 + page);
      file.write(reinterpret_cast<const char*>(content.data()), kPageSize);
      shown.active[page] = 81 + page;
    }
  }
  pcow::CreateOptions options;
  options.log_size = 4 * kMiB;
  options.base = Base{"base.raw", BaseFormat::kRaw};
  must(Image::create(world.path(), options));
  shown.size = kChunkSize;
  const auto image = open_for(world.path());
  write(*image, shown, {{0, 84}, {1, 0}});
  must(image->close());
  return shown;
}

}  // namespace test
