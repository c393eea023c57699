// SPDX-License-Identifier: BSD-3-Clause
#include "tests/unit/tools/verb_cases.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "tests/unit/tools/program_run.h"

int pcow_img_main(int argc, char** argv);

namespace test {
namespace {

using pcow::Base;
using pcow::BaseFormat;
using pcow::Image;
using pcow::kMiB;
using pcow::kPagesPerSegment;

constexpr uint64_t kSmall = 4 * kMiB;
// In a window that images of kPages have, and that they own no page at.
constexpr uint64_t kFreePage = pcow::kSegmentSize + 100 * pcow::kPageSize;
const PageValues kPages = {{0, 1}, {1, 2}, {3, 4}, {511, 5}, {512, 6}};
const PageValues kOver = {{1, 22}, {2, 23}, {514, 24}};

template <typename T>
T must(pcow::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

std::unique_ptr<Image> new_image(const FaultWorld& world, const std::string& name,
                                 pcow::CreateOptions options) {
  if (options.virtual_size == 0 && !options.base) options.virtual_size = kSmall;
  options.log_size = 4 * kMiB;
  must(Image::create(world.path(name), options));
  pcow::OpenOptions open;
  open.access = pcow::Access::kReadWrite;
  open.base = pcow::BaseAccess::kFollow;
  return must(Image::open(world.path(name), open));
}

void write(Image& image, const PageValues& pages) {
  must(image.write_pages(batch_of(pages).writes()));
  must(image.commit());
}

void make(const FaultWorld& world, const std::string& name, const PageValues& pages,
          pcow::CreateOptions options = {}) {
  const auto image = new_image(world, name, std::move(options));
  write(*image, pages);
  must(image->close());
}

pcow::CreateOptions striped(const std::string& member) {
  pcow::CreateOptions options;
  options.stripe = {member};
  options.stripe_unit = pcow::kWindowSize;
  return options;
}

pcow::CreateOptions based_on(const std::string& base, BaseFormat format = BaseFormat::kPcow) {
  pcow::CreateOptions options;
  options.base = Base{base, format};
  return options;
}

// Three GiBs, and snapshots that share some of them.
void make_layers(const FaultWorld& world, const std::string& name, pcow::CreateOptions options) {
  options.virtual_size = FaultWorld::kSize;
  const auto image = new_image(world, name, std::move(options));
  write(*image, {{0, 1}, {1, 2}, {511, 5}, {kPagesPerSegment, 8}});
  must(image->create_snapshot("a"));
  write(*image, {{0, 21}, {kPagesPerSegment + 1, 24}});
  must(image->create_snapshot("b"));
  write(*image, {{1, 31}, {2 * kPagesPerSegment + 100, 32}});
  must(image->close());
}

void make_raw(const FaultWorld& world, const std::string& name, const PageValues& pages) {
  std::string bytes(kSmall, '\0');
  for (const auto& [page, value] : pages) {
    const Page content = page_of(value);
    bytes.replace(page * pcow::kPageSize, content.size(),
                  reinterpret_cast<const char*>(content.data()), content.size());
  }
  write_file(world.path(name), bytes);
}

// A slot that nothing refers to and zeros that nobody owns, marked and reserved by what a crash
// ended.
void make_leak(const FaultWorld& world, const std::string& name) {
  make(world, name, kPages);
  patch_file(world.path(name), kFreePage, std::string(pcow::kPageSize, '\0'));
  forge_block(world.path(name), pcow::format::kRootSlotMapOffset, [](pcow::format::Block& block) {
    constexpr uint64_t kSlot = pcow::format::kLogOffset / pcow::format::kSlotSize - 1;
    uint8_t& byte = block.as<pcow::format::SlotMapBlock>().used.at(kSlot / 8);
    byte = static_cast<uint8_t>(byte | 1u << (kSlot % 8));
  });
}

// A page that nobody owns holds data, which its next owner would see.
void make_damaged(const FaultWorld& world, const std::string& name) {
  make(world, name, kPages);
  patch_file(world.path(name), kFreePage, "x");
}

void make_unclean(const FaultWorld& world, const std::string& name) {
  const auto image = new_image(world, name, {});
  must(image->log_pages(batch_of(kPages).writes()));
  must(image->commit());
}

void make_qcow2(const FaultWorld& world, const std::string& name) {
  const ProgramRun pack = {
      pcow_img_main, {"pcow-img", "convert", "-O", "qcow2", "small.pcow", name}, world.directory()};
  const ProgramOutcome packed = run_undisturbed(pack);
  if (packed.exit_code != 0) throw std::runtime_error(packed.err);
}

using FileMaker = std::function<void(const FaultWorld&, const std::string&)>;

// By the name of the file; some make others beside it.
const std::map<std::string, FileMaker>& makers_of_files() {
  const auto holding = [](const PageValues& pages) -> FileMaker {
    return [pages](const FaultWorld& world, const std::string& name) { make(world, name, pages); };
  };
  const auto raw = [](const PageValues& pages) -> FileMaker {
    return
        [pages](const FaultWorld& world, const std::string& name) { make_raw(world, name, pages); };
  };
  static const std::map<std::string, FileMaker> kMakers = {
      {"vm.pcow", [](const auto& world, const auto& name) { make_layers(world, name, {}); }},
      {"set.pcow",
       [](const auto& world, const auto& name) { make_layers(world, name, striped("set.1")); }},
      {"small.pcow", holding(kPages)},
      {"empty.pcow", holding({})},
      {"other.pcow", holding({{2, 51}})},
      {"small.raw", raw(kPages)},
      {"over.pcow",
       [](const auto& world, const auto& name) {
         make(world, "base.pcow", kPages, striped("base.1"));
         make(world, name, kOver, based_on("base.pcow"));
       }},
      {"leak.pcow", make_leak},
      {"damaged.pcow", make_damaged},
      {"unclean.pcow", make_unclean},
      {"old.pcow", holding(kOver)},
      {"oldset.pcow",
       [](const auto& world, const auto& name) { make(world, name, kOver, striped("oldset.1")); }},
      {"old.raw", raw(kOver)},
      // After small.pcow, in the order of the names.
      {"small.qcow2", make_qcow2},
  };
  return kMakers;
}

void grow(Shown& shown) { shown.size = 3 * pcow::kGiB; }

std::vector<VerbCase> readers() {
  return {
      {.name = "info", .words = "info vm.pcow"},
      {.name = "info_json_of_set", .words = "info --output json set.pcow"},
      {.name = "info_chain", .words = "info --backing-chain --allow-base over.pcow"},
      {.name = "info_unclean", .words = "info unclean.pcow"},
      {.name = "check", .words = "check vm.pcow"},
      {.name = "check_set_json", .words = "check --output json set.pcow"},
      {.name = "map", .words = "map --output json vm.pcow"},
      {.name = "map_chain", .words = "map --allow-base over.pcow"},
      {.name = "measure", .words = "measure vm.pcow"},
      {.name = "measure_raw", .words = "measure small.raw"},
      {.name = "compare", .words = "compare small.pcow small.raw", .error_code = 2},
      {.name = "compare_sets", .words = "compare vm.pcow set.pcow", .error_code = 2},
      {.name = "compare_different",
       .words = "compare --allow-base over.pcow small.pcow",
       .error_code = 2},
      {.name = "snapshot_list", .words = "snapshot -l vm.pcow"},
      {.name = "scrub", .words = "scrub vm.pcow"},
      {.name = "export", .words = "convert -O raw small.pcow -"},
  };
}

std::vector<VerbCase> changers() {
  return {
      {.name = "check_repair_leaks", .words = "check -r leaks leak.pcow", .changes = "leak.pcow"},
      {.name = "check_repair_damage",
       .words = "check -r all damaged.pcow",
       .changes = "damaged.pcow",
       .damaged = true},
      {.name = "check_repair_unclean",
       .words = "check -r all unclean.pcow",
       .changes = "unclean.pcow",
       .same_output = false},
      {.name = "scrub_add",
       .words = "scrub --add vm.pcow",
       .changes = "vm.pcow",
       .same_output = false},  // a log that is not given back is a leak
      {.name = "snapshot_create",
       .words = "snapshot -c new set.pcow",
       .changes = "set.pcow",
       .effect = [](Shown& shown) { shown.snapshots["new"] = shown.active; },
       .touches = {"set.1"}},
      {.name = "snapshot_apply",
       .words = "snapshot -a a vm.pcow",
       .changes = "vm.pcow",
       .effect = [](Shown& shown) { shown.active = shown.snapshots["a"]; }},
      {.name = "snapshot_delete",
       .words = "snapshot -d b set.pcow",
       .changes = "set.pcow",
       .effect = [](Shown& shown) { shown.snapshots.erase("b"); },
       .touches = {"set.1"}},
      {.name = "recover",
       .words = "resize unclean.pcow 3G",
       .changes = "unclean.pcow",
       .effect = grow},
      {.name = "grow", .words = "resize small.pcow 3G", .changes = "small.pcow", .effect = grow},
      {.name = "shrink",
       .words = "resize --shrink set.pcow 2M",
       .changes = "set.pcow",
       .effect =
           [](Shown& shown) {
             shown.size = 2 * kMiB;
             std::erase_if(shown.active, [](const auto& item) { return item.first >= 512; });
           },
       .touches = {"set.1"}},
      {.name = "rebase",
       .words = "rebase --allow-base -b small.raw -F raw over.pcow",
       .changes = "over.pcow",
       .effect = [](Shown& shown) { shown.base = "small.raw"; }},
      {.name = "rebase_unsafe",
       .words = "rebase -u -b other.pcow over.pcow",
       .changes = "over.pcow",
       .effect =
           [](Shown& shown) {
             shown.base = "other.pcow";
             shown.active = kOver;
           }},
      {.name = "commit",
       .words = "commit --allow-base over.pcow",
       .changes = "over.pcow",
       .touches = {"base.pcow", "base.1"}},
      {.name = "bench",
       .words = "bench -q -c 10 vm.pcow",
       .changes = "vm.pcow",
       .same_output = false},
      // Zeros, so that the content is as it was.
      {.name = "bench_write",
       .words = "bench -q -w --pattern 0 -c 10 empty.pcow",
       .changes = "empty.pcow",
       .same_output = false},
  };
}

std::vector<VerbCase> creators() {
  return {
      {.name = "create",
       .words = "create new.pcow 4M",
       .makes = {"new.pcow"},
       .like = "empty.pcow"},
      {.name = "create_set",
       .words = "create --stripe new.1 --stripe-unit 2M new.pcow 4M",
       .makes = {"new.1", "new.pcow"},
       .like = "empty.pcow"},
      {.name = "create_on_base",
       .words = "create -b other.pcow new.pcow",
       .makes = {"new.pcow"},
       .like = "other.pcow"},
      {.name = "create_over",
       .words = "create --force old.pcow 4M",
       .makes = {"old.pcow"},
       .like = "empty.pcow"},
      {.name = "create_over_set",
       .words = "create --force --stripe oldset.1 oldset.pcow 4M",
       .makes = {"oldset.1", "oldset.pcow"},
       .like = "empty.pcow"},
  };
}

std::vector<VerbCase> converters() {
  return {
      {.name = "convert",
       .words = "convert small.pcow new.pcow",
       .makes = {"new.pcow"},
       .like = "small.pcow"},
      {.name = "convert_chain",
       .words = "convert --allow-base over.pcow new.pcow",
       .makes = {"new.pcow"},
       .like = "over.pcow"},
      {.name = "convert_raw",
       .words = "convert -f raw small.raw new.pcow",
       .makes = {"new.pcow"},
       .like = "small.pcow"},
      {.name = "convert_probed",
       .words = "convert -p set.pcow new.pcow",
       .makes = {"new.pcow"},
       .like = "set.pcow"},
      {.name = "convert_to_raw",
       .words = "convert -O raw small.pcow new.raw",
       .makes = {"new.raw"},
       .like = "small.raw"},
      {.name = "convert_stream",
       .words = "convert -f raw - new.pcow",
       .makes = {"new.pcow"},
       .like = "small.pcow",
       .input = "small.raw"},
      {.name = "convert_to_set",
       .words = "convert --stripe new.1 --stripe-unit 2M small.pcow new.pcow",
       .makes = {"new.1", "new.pcow"},
       .like = "small.pcow"},
      {.name = "convert_stream_to_set",
       .words = "convert -f raw --stripe new.1 --stripe-unit 2M - new.pcow",
       .makes = {"new.1", "new.pcow"},
       .like = "small.pcow",
       .input = "small.raw"},
      {.name = "convert_over_raw",
       .words = "convert --force -O raw small.pcow old.raw",
       .makes = {"old.raw"},
       .like = "small.raw"},
      {.name = "convert_from_qcow2",
       .words = "convert -f qcow2 small.qcow2 new.pcow",
       .makes = {"new.pcow"},
       .like = "small.pcow",
       .by_qemu_img = true},
      {.name = "convert_to_qcow2",
       .words = "convert -O qcow2 small.pcow new.qcow2",
       .makes = {"new.qcow2"},
       .like = "small.raw",
       .by_qemu_img = true},
      {.name = "convert_over_set",
       .words = "convert --force --stripe oldset.1 small.pcow oldset.pcow",
       .makes = {"oldset.1", "oldset.pcow"},
       .like = "small.pcow"},
  };
}

}  // namespace

std::vector<std::string> words_of(const VerbCase& verb) {
  std::vector<std::string> words = {"pcow-img"};
  std::istringstream stream(verb.words);
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

bool have_qemu_img() {
  const char* const path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access((folder + "/qemu-img").c_str(), X_OK) == 0) return true;
  }
  return false;
}

void make_verb_files(FaultWorld& world, const VerbCase& verb) {
  std::vector<std::string> names = words_of(verb);
  names.push_back(verb.like);
  names.push_back(verb.input);
  for (const auto& [name, make_file] : makers_of_files()) {
    if (std::ranges::find(names, name) != names.end()) make_file(world, name);
  }
}

const std::vector<VerbCase>& verb_cases() {
  static const std::vector<VerbCase> kCases = [] {
    std::vector<VerbCase> all = readers();
    for (const auto& more : {changers(), creators(), converters()}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }();
  return kCases;
}

}  // namespace test
