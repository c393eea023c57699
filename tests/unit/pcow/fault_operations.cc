// SPDX-License-Identifier: BSD-3-Clause
#include "tests/unit/pcow/fault_operations.h"

#include <fcntl.h>

#include <stdexcept>
#include <utility>

#include "tests/unit/pcow/fault_images.h"

namespace test {
namespace {

using pcow::Access;
using pcow::Base;
using pcow::BaseAccess;
using pcow::BaseFormat;
using pcow::ChunkIndex;
using pcow::GibIndex;
using pcow::Image;
using pcow::kChunkSize;
using pcow::kGiB;
using pcow::kMiB;
using pcow::kPageSize;
using pcow::OpenOptions;
using pcow::PageIndex;
using pcow::Result;

// --- what comes before an operation --------------------------------------------------------------

using Setup = std::function<void(Session&, Shown&)>;
using Run = std::function<Result<void>(Session&)>;

void nothing_open(Session&, Shown&) {}

void opened(Session& session, Shown&) { session.image = open_for(session.world.path()); }

void opened_for_reading(Session& session, Shown&) {
  session.image = open_for(session.world.path(), Access::kReadOnly);
}

// A committed epoch that only the log has.
void with_epoch(Session& session, Shown& shown) {
  opened(session, shown);
  const PageValues epoch = {{0, 91}, {1, 0}, {4, 92}, {kSecond + 1, 93}, {kThird + 104, 94}};
  log_epoch(*session.image, epoch);
  must(session.image->commit());
  lay(shown.active, epoch);
}

Setup with_epoch_under_way(const PageValues& pages) {
  return [pages](Session& session, Shown& shown) {
    with_epoch(session, shown);
    log_epoch(*session.image, pages);
  };
}

// File space that nobody owns, in a window and in a segment without an owner.
void with_unowned_space(Session& session, Shown& shown) {
  opened(session, shown);
  const auto window = must(session.image->layout(GibIndex(0))).chunks[0].window.offset;
  for (const uint64_t page : {uint64_t{7}, uint64_t{8}, uint64_t{20}}) {
    const auto offset = static_cast<off_t>(window + page * kPageSize);
    if (fallocate(session.image->fd(), FALLOC_FL_KEEP_SIZE, offset, kPageSize) != 0) {
      throw std::runtime_error("cannot allocate space in an image");
    }
  }
}

// --- operations ----------------------------------------------------------------------------------

std::function<void(Shown&)> laying(const PageValues& pages) {
  return [pages](Shown& shown) { lay(shown.active, pages); };
}

Run writing(const PageValues& pages) {
  const auto batch = std::make_shared<PageBatch>(batch_of(pages));
  return [batch](Session& session) -> Result<void> {
    PCOW_TRY(session.image->write_pages(batch->writes()));
    return {};
  };
}

Run logging(const PageValues& pages) {
  const auto batch = std::make_shared<PageBatch>(batch_of(pages));
  return [batch](Session& session) -> Result<void> {
    PCOW_TRY(session.image->log_pages(batch->writes()));
    return {};
  };
}

Result<void> commit(Session& session) {
  PCOW_TRY(session.image->commit());
  return {};
}

Result<void> checkpoint(Session& session) {
  PCOW_TRY(session.image->checkpoint(UINT64_MAX));
  return {};
}

Result<void> restart_epoch(Session& session) {
  const pcow::LogState log = session.image->log_state();
  return session.image->restart_epoch(2 * log.size);
}

Result<void> fold(Session& session) {
  for (const uint64_t chunk : {uint64_t{0}, uint64_t{1}, pcow::kChunksPerSegment}) {
    PCOW_TRY(session.image->fold(ChunkIndex(chunk), 1));
  }
  return {};
}

Result<void> reclaim(Session& session) {
  PCOW_TRY(session.image->reclaim_unowned());
  return {};
}

// Of two GiBs, with chunks that are given up as a whole and such that are not.
constexpr uint64_t kDiscarded = kSecond - 600;
constexpr uint64_t kDiscardedEnd = kSecond + 2;

Result<void> discard(Session& session) {
  PCOW_TRY(session.image->discard(PageIndex(kDiscarded), kDiscardedEnd - kDiscarded));
  return {};
}

void without_discarded(Shown& shown) {
  shown.active.erase(shown.active.lower_bound(kDiscarded), shown.active.lower_bound(kDiscardedEnd));
}

Run resizing(uint64_t size) {
  return [size](Session& session) { return session.image->resize(size, true); };
}

std::function<void(Shown&)> cutting(uint64_t size) {
  return [size](Shown& shown) {
    shown.size = size;
    shown.active.erase(shown.active.lower_bound(size / kPageSize), shown.active.end());
  };
}

Run opening(OpenOptions options) {
  options.base = BaseAccess::kFollow;
  return [options](Session& session) -> Result<void> {
    PCOW_TRY_ASSIGN(session.image, Image::open(session.world.path(), options));
    return {};
  };
}

Run creating(bool over, const std::optional<Base>& base,
             const std::vector<std::string>& stripe = {}) {
  pcow::CreateOptions options;
  options.virtual_size = FaultWorld::kSize;
  options.log_size = 4 * kMiB;
  options.overwrite = over;
  options.base = base;
  options.stripe = stripe;
  return [options](Session& session) {
    const FaultWorld& world = session.world;
    return Image::create(options.overwrite ? world.path() : world.fresh_path(), options);
  };
}

// Everything that can be asked: an error, or what is right.
Result<void> read_all(Session& session) {
  const Image& image = *session.image;
  pcow::format::Block content;  // not a vector: no memory of the test is to be in the way
  for (const uint64_t page : FaultWorld::pages()) {
    PCOW_TRY(image.read(page * kPageSize, content.bytes));
  }
  for (uint64_t gib = 0; gib < 3; ++gib) {
    PCOW_TRY(image.layout(GibIndex(gib)));
    PCOW_TRY(image.page_map(ChunkIndex(gib * pcow::kChunksPerSegment)));
    PCOW_TRY(image.logged_pages(ChunkIndex(gib * pcow::kChunksPerSegment)));
  }
  PCOW_TRY(image.snapshots());
  return image.map(0, image.virtual_size(), [](const pcow::MapExtent&) {});
}

Result<void> check(Session& session) {
  const auto report = pcow::check_image(session.world.path(), false, {});
  if (!report) return report.error();
  EXPECT_EQ(report->corruptions, 0u);
  return {};
}

std::vector<Operation> writing_operations() {
  const PageValues fresh = {{5, 101}, {514, 102}, {kThird + 100, 103}, {kThird + 101, 0}};
  const PageValues over = {{0, 111},           {1, 0},          {2, 112}, {511, 0},
                           {kSecond + 1, 113}, {kSecond + 2, 0}};
  const auto page_wise = Allowed::kPageWise;
  return {
      {"write", plain, opened, writing(fresh), laying(fresh), page_wise},
      {"write_over", plain, opened, writing(over), laying(over), page_wise},
      {"write_over_epoch", plain, with_epoch, writing(over), laying(over), page_wise},
      {"write_over_layers", layers, opened, writing(over), laying(over), page_wise},
      {"write_over_base", based, opened, writing(over), laying(over), page_wise},
      {"discard", plain, opened, discard, without_discarded, page_wise},
      {"discard_epoch", plain, with_epoch, discard, without_discarded, page_wise},
      {"discard_over_layers", layers, opened, discard, without_discarded, page_wise},
      {"discard_over_base", based, opened, discard, without_discarded, page_wise},
      {"commit", plain,
       [fresh](Session& session, Shown& shown) {
         opened(session, shown);
         must(session.image->write_pages(batch_of(fresh).writes()));
         lay(shown.active, fresh);
       },
       commit},
      {"log", plain, with_epoch, logging(over), laying(over), Allowed::kBefore, false},
      {"log_over_layers", layers, opened, logging(over), laying(over), Allowed::kBefore, false},
      {"log_over_base", based, opened, logging(over), laying(over), Allowed::kBefore, false},
      {"commit_epoch", plain, with_epoch_under_way(fresh), commit, laying(fresh)},
      {"commit_epoch_over_layers", layers, with_epoch_under_way(over), commit, laying(over)},
      {"checkpoint", plain, with_epoch, checkpoint},
      {"checkpoint_in_an_epoch", plain, with_epoch_under_way(over), checkpoint, laying(over),
       Allowed::kBefore, false},
      {"restart_epoch", plain, with_epoch_under_way(over), restart_epoch},
      {"fold_layers", layers, opened, fold},
      {"fold_base", based, opened, fold},
      {"reclaim", small, with_unowned_space, reclaim},
      {"close", plain, with_epoch_under_way(over),
       [](Session& session) { return session.image->close(); }},
  };
}

std::vector<Operation> layer_operations() {
  const auto creating_d = [](Session& session) { return session.image->create_snapshot("d"); };
  const auto deleting = [](const std::string& name) -> Run {
    return [name](Session& session) { return session.image->delete_snapshot(name); };
  };
  const auto gone = [](const std::string& name) {
    return [name](Shown& shown) { shown.snapshots.erase(name); };
  };
  const auto beginning = [](const std::string& name) -> Run {
    return [name](Session& session) { return session.image->begin_deletion(name); };
  };
  const auto half_way = [gone](const std::string& name) {
    return [name, gone](Session& session, Shown& shown) {
      opened(session, shown);
      must(session.image->begin_deletion(name));
      must(session.image->continue_deletion(1, {}));
      gone(name)(shown);
    };
  };
  const auto in_steps = [](Session& session) -> Result<void> {
    for (bool done = false; !done;) {
      PCOW_TRY_ASSIGN(const pcow::DeletionReport report,
                      session.image->continue_deletion(3000, {}));
      done = report.done;
    }
    return {};
  };
  const auto back_to_b = [](Session& session) { return session.image->apply_snapshot("b"); };
  const auto as_b = [](Shown& shown) { shown.active = shown.snapshots.at("b"); };
  const auto with_d = [](Shown& shown) { shown.snapshots["d"] = shown.active; };
  const PageValues epoch = {{0, 121}, {3, 122}, {kThird + 105, 123}};
  return {
      {"grow", plain, opened, resizing(5 * kGiB), [](Shown& shown) { shown.size = 5 * kGiB; }},
      {"shrink", plain, with_epoch, resizing(kChunkSize), cutting(kChunkSize)},
      {"shrink_layers", layers, with_epoch, resizing(kChunkSize), cutting(kChunkSize)},
      {"grow_layers", layers,
       [](Session& session, Shown& shown) {
         constexpr uint64_t kSmaller = kGiB - kChunkSize;
         opened(session, shown);
         must(session.image->resize(kSmaller, true));
         cutting(kSmaller)(shown);
       },
       resizing(2 * kGiB), [](Shown& shown) { shown.size = 2 * kGiB; }},
      {"first_snapshot", plain, with_epoch, creating_d, with_d},
      {"snapshot", layers, with_epoch, creating_d, with_d},
      {"delete_a", layers, with_epoch, deleting("a"), gone("a")},
      {"delete_b", layers, opened, deleting("b"), gone("b")},
      {"delete_c", layers, opened, deleting("c"), gone("c")},
      {"begin_deletion", layers, with_epoch, beginning("a"), gone("a")},
      {"delete_a_in_steps", layers, half_way("a"), in_steps},
      {"delete_b_in_steps", layers, half_way("b"), in_steps},
      {"delete_c_in_steps", layers, half_way("c"), in_steps},
      {"apply", layers, opened, back_to_b, as_b},
      {"apply_in_an_epoch", layers, with_epoch_under_way(epoch), back_to_b, as_b},
  };
}

std::vector<Operation> base_operations() {
  const auto rebasing = [](const std::optional<Base>& base) -> Run {
    return [base](Session& session) { return session.image->rebase(base, {}); };
  };
  const auto onto = [](const std::string& base) {
    return [base](Shown& shown) { shown.base = base; };
  };
  const auto writing_down = [](Session& session) {
    return session.image->commit_to_base(false, {});
  };
  const Base other{"new.pcow", BaseFormat::kPcow};
  return {
      {"rebase", based, opened, rebasing(other), onto("new.pcow")},
      {"rebase_to_none", based, opened, rebasing(std::nullopt), onto("")},
      {"set_base", based, opened,
       [other](Session& session) { return session.image->set_base(other); },
       [](Shown& shown) {
         shown.base = "new.pcow";
         shown.active = {{0, 71},   {1, 61},           {5, 72},
                         {510, 62}, {kSecond + 3, 73}, {kThird + 103, 63}};
       }},
      {"commit_to_base", based, opened, writing_down},
      {"commit_to_raw_base", raw_based, opened, writing_down},
  };
}

std::vector<Operation> opening_operations() {
  const OpenOptions writable{.access = Access::kReadWrite};
  const OpenOptions replay{.replay_in_memory = true};
  const OpenOptions of_b{.snapshot = "b"};
  const auto emptied = [](Shown& shown) { shown = {FaultWorld::kSize, {}, {}, ""}; };
  const auto on_base = [](Shown& shown) {
    shown = {FaultWorld::kSize, kFirstPages, {}, "base.pcow"};
  };
  const Base base{"base.pcow", BaseFormat::kPcow};
  return {
      {"open", layers, nothing_open, opening(writable)},
      {"open_on_base", based, nothing_open, opening(writable)},
      {"open_for_reading", plain, nothing_open, opening({})},
      {"open_snapshot", layers, nothing_open, opening(of_b)},
      {"replay", unclean, nothing_open, opening(replay)},
      {"recover", unclean, nothing_open, opening(writable)},
      {"recover_deletion", half_deleted, nothing_open, opening(writable)},
      {"recover_shrink", half_shrunk, nothing_open, opening(writable)},
      {"create", plain, nothing_open, creating(false, std::nullopt)},
      {"create_over", plain, nothing_open, creating(true, std::nullopt), emptied},
      {"create_over_set", set_of_files, nothing_open, creating(true, std::nullopt, {"vm.1"}),
       emptied},
      {"create_on_base", based, nothing_open, creating(true, base), on_base},
      {"read_layers", layers, opened_for_reading, read_all},
      {"read_base", based, opened_for_reading, read_all},
      {"read_replayed", unclean,
       [replay](Session& session, Shown&) {
         session.image = must(Image::open(session.world.path(), replay));
       },
       read_all},
      {"check", layers, nothing_open, check},
      {"check_unclean", unclean, nothing_open, check},
  };
}

}  // namespace

const std::vector<Operation>& operations() {
  static const std::vector<Operation> kOperations = [] {
    std::vector<Operation> all;
    for (auto group :
         {writing_operations(), layer_operations(), base_operations(), opening_operations()}) {
      all.insert(all.end(), group.begin(), group.end());
    }
    return all;
  }();
  return kOperations;
}

}  // namespace test
