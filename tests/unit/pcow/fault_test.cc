// SPDX-License-Identifier: BSD-3-Clause
//
// Fault injection: for every n, the nth call of a kind fails; the operation says so, and whatever
// the last successful commit promised is there when the image is opened again.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <map>

#include "tests/support/image_fixture.h"
#include "tests/support/syscall_faults.h"

namespace pcow {
namespace {

constexpr uint64_t kSize = 4 * kGiB;

struct Fault {
  test::Call call;
  int sys_errno;
};

class FaultTest : public ::testing::TestWithParam<Fault> {
 protected:
  // Creates an image with pages 0, 10, … 90 committed.
  void prepare() {
    std::filesystem::remove(path_);
    test::create_image(path_, kSize);
    const auto image = test::open_image(path_);
    for (uint64_t page = 0; page < 100; page += 10) {
      test::write_page(*image, page, test::pattern_page(page));
    }
    ASSERT_OK(image->commit());
    ASSERT_OK(image->close());
  }

  // Pages in three GiBs, one of them with a segment already. True when all of it succeeded.
  bool work(Image& image, bool& committed) {
    std::vector<PageWrite> writes;
    for (const uint64_t page : kNewPages) writes.push_back({PageIndex(page), data_.data()});
    if (!image.write_pages(writes)) return false;
    if (!image.commit()) return false;
    committed = true;
    if (!image.resize(8 * kGiB, false)) return false;
    if (!image.resize(2 * kGiB, true)) return false;
    return image.close().has_value();
  }

  void verify(bool committed) {
    {
      const auto image = test::open_image(path_);
      ASSERT_NE(image, nullptr);
      for (uint64_t page = 0; page < 100; page += 10) {
        EXPECT_EQ(test::read_page(*image, page), test::pattern_page(page));
      }
      for (const uint64_t page : kNewPages) {
        if ((page + 1) * kPageSize > image->virtual_size()) continue;
        const test::Page now = test::read_page(*image, page);
        if (committed) {
          EXPECT_EQ(now, data_) << page;
        } else {
          EXPECT_TRUE(now == data_ || now == test::Page(kPageSize)) << page;
        }
      }
      ASSERT_OK(image->close());
    }
    test::expect_clean_check(path_, true);
  }

  static constexpr uint64_t kNewPages[] = {5, 6, 7, kPagesPerSegment + 1, 3 * kPagesPerSegment};
  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  const test::Page data_ = test::pattern_page(77);
};

TEST_P(FaultTest, NothingIsLostWhicheverCallFails) {
  uint64_t nth = 1;
  for (;; nth += test::fault_step()) {
    ASSERT_LT(nth, 1000u);
    prepare();
    bool committed = false;
    bool hit = false;
    {
      const test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
      OpenOptions options;
      options.access = Access::kReadWrite;
      auto image = Image::open(path_, options);
      const bool all = image.has_value() && work(**image, committed);
      hit = plan.hit();
      // Releasing the log's space at close is the one call whose failure does not matter.
      if (hit && all && GetParam().call != test::Call::kPunch) {
        ADD_FAILURE() << test::call_name(GetParam().call) << " " << nth << " failed unnoticed";
      }
    }
    verify(committed);
    if (!hit || ::testing::Test::HasFailure()) break;
  }
  std::printf("%s: of %lu calls, one in %lu failed in turn\n",
              test::call_name(GetParam().call).c_str(), static_cast<unsigned long>(nth - 1),
              static_cast<unsigned long>(test::fault_step()));
  EXPECT_GT(nth, 1u);
}

TEST_P(FaultTest, CreateLeavesNothingBehind) {
  for (uint64_t nth = 1;; nth += test::fault_step()) {
    ASSERT_LT(nth, 100u);
    std::filesystem::remove(path_);
    const test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
    CreateOptions options;
    options.virtual_size = kSize;
    const auto result = Image::create(path_, options);
    if (!plan.hit()) {
      ASSERT_OK(result);
      break;
    }
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().sys_errno, GetParam().sys_errno) << result.error().message;
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
}

// The same for snapshots: whichever call fails, the image is as before or as after the operation.
class SnapshotFaultTest : public ::testing::TestWithParam<Fault> {
 protected:
  using Pages = std::map<uint64_t, uint64_t>;  // page → value
  struct State {
    Pages active;
    std::map<std::string, Pages> snapshots;
    bool operator==(const State&) const = default;
  };
  using Operation = std::function<bool(Image&)>;

  static bool write(Image& image, uint64_t page, uint64_t value) {
    const test::Page data = test::pattern_page(value);
    const PageWrite write{PageIndex(page), data.data()};
    return image.write_pages(std::span(&write, 1)).has_value() && image.commit().has_value();
  }

  // Snapshot a of ten pages, b of some written since, and one written since that.
  void prepare() {
    std::filesystem::remove(path_);
    test::create_image(path_, kSize);
    const auto image = test::open_image(path_);
    for (uint64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(*image, page, page));
    ASSERT_OK(image->create_snapshot("a"));
    for (uint64_t page = 0; page < kPages / 2; ++page) ASSERT_TRUE(write(*image, page, 100 + page));
    ASSERT_OK(image->create_snapshot("b"));
    ASSERT_TRUE(write(*image, 0, 200));
    ASSERT_OK(image->close());
  }

  static const std::vector<Operation>& operations() {
    static const std::vector<Operation> kOperations = {
        [](Image& image) { return image.create_snapshot("c").has_value(); },
        [](Image& image) { return write(image, 9, 300); },
        [](Image& image) { return image.fold(ChunkIndex(0), 1).has_value(); },
        [](Image& image) { return image.delete_snapshot("a").has_value(); },
        [](Image& image) { return image.apply_snapshot("b").has_value(); },
        [](Image& image) { return image.delete_snapshot("c").has_value(); },
        [](Image& image) { return image.close().has_value(); }};
    return kOperations;
  }

  // Before the first operation, and after each.
  static std::vector<State> states() {
    State state;
    for (uint64_t page = 0; page < kPages; ++page) state.active[page] = page;
    state.snapshots["a"] = state.active;
    for (uint64_t page = 0; page < kPages / 2; ++page) state.active[page] = 100 + page;
    state.snapshots["b"] = state.active;
    state.active[0] = 200;
    std::vector<State> all = {state};
    state.snapshots["c"] = state.active;
    all.push_back(state);
    state.active[9] = 300;
    all.push_back(state);
    all.push_back(state);
    state.snapshots.erase("a");
    all.push_back(state);
    state.active = state.snapshots["b"];
    all.push_back(state);
    state.snapshots.erase("c");
    all.push_back(state);
    all.push_back(state);
    return all;
  }

  static Pages look_at(const Image& image) {
    Pages pages;
    for (uint64_t page = 0; page < kPages; ++page) {
      const test::Page data = test::read_page(image, page);
      for (uint64_t base = 0; base <= 300; base += 100) {
        for (uint64_t value = base; value < base + kPages; ++value) {
          if (data == test::pattern_page(value)) pages[page] = value;
        }
      }
    }
    return pages;
  }

  State look_at_all() {
    State found;
    std::vector<SnapshotInfo> snapshots;
    {
      const auto image = test::open_image(path_);
      found.active = look_at(*image);
      snapshots = image->snapshots().value();
      EXPECT_TRUE(image->close().has_value());
    }
    for (const SnapshotInfo& snapshot : snapshots) {
      OpenOptions options;
      options.snapshot = snapshot.name;
      found.snapshots[snapshot.name] = look_at(*Image::open(path_, options).value());
    }
    return found;
  }

  static constexpr uint64_t kPages = 10;
  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
};

TEST_P(SnapshotFaultTest, ItIsAsBeforeOrAsAfter) {
  const std::vector<State> expected = states();
  uint64_t nth = 1;
  for (;; nth += test::fault_step()) {
    ASSERT_LT(nth, 2000u);
    prepare();
    size_t done = 0;
    bool hit = false;
    {
      const test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
      OpenOptions options;
      options.access = Access::kReadWrite;
      auto image = Image::open(path_, options);
      while (image && done < operations().size() && operations()[done](**image)) ++done;
      hit = plan.hit();
    }
    const State found = look_at_all();
    const bool as_before = found == expected[done];
    const bool as_after = done < operations().size() && found == expected[done + 1];
    EXPECT_TRUE(as_before || as_after) << "call " << nth << ", operation " << done;
    test::expect_clean_check(path_, true);
    if (!hit || ::testing::Test::HasFailure()) break;
  }
  std::printf("%s: of %lu calls, one in %lu failed in turn\n",
              test::call_name(GetParam().call).c_str(), static_cast<unsigned long>(nth - 1),
              static_cast<unsigned long>(test::fault_step()));
  EXPECT_GT(nth, 1u);
}

// The chunks that a shrink dropped are emptied before they can be written again, and not after.
TEST(FaultTestOfTrim, AFailedTrimDoesNotTakeLaterWrites) {
  const test::TempDir dir;
  const std::string path = dir.file("vm.pcow");
  constexpr uint64_t kDropped = kPagesPerSegment + 3;
  test::create_image(path, 2 * kGiB);
  {
    const auto image = test::open_image(path);
    test::write_page(*image, kDropped, test::pattern_page(1));
    {
      const test::FaultPlan plan(test::Call::kPunch, 1, EIO, true);
      ASSERT_FALSE(image->resize(kGiB, true).has_value());
      ASSERT_FALSE(image->resize(2 * kGiB, false).has_value());
      EXPECT_EQ(image->virtual_size(), kGiB);  // what is to be emptied cannot be written
    }
    ASSERT_OK(image->resize(2 * kGiB, false));
    EXPECT_EQ(test::read_page(*image, kDropped), test::Page(kPageSize));
    test::write_page(*image, kDropped + 1, test::pattern_page(2));
    ASSERT_OK(image->commit());
  }
  const auto image = test::open_image(path);
  EXPECT_EQ(test::read_page(*image, kDropped), test::Page(kPageSize));
  EXPECT_EQ(test::read_page(*image, kDropped + 1), test::pattern_page(2));
  ASSERT_OK(image->close());
  test::expect_clean_check(path);
}

const auto kFaults =
    ::testing::Values(Fault{test::Call::kWrite, EIO}, Fault{test::Call::kWrite, ENOSPC},
                      Fault{test::Call::kFlush, EIO}, Fault{test::Call::kReserve, ENOSPC},
                      Fault{test::Call::kReserve, EIO}, Fault{test::Call::kPunch, EIO},
                      Fault{test::Call::kExtend, ENOSPC}, Fault{test::Call::kRead, EIO});

std::string fault_name(const ::testing::TestParamInfo<Fault>& param) {
  return test::call_name(param.param.call) + "_" + std::to_string(param.param.sys_errno);
}

// Epochs: whichever call fails, the image is as an epoch left it: the last one whose commit() said
// so, or the one whose commit() failed.
class EpochFaultTest : public ::testing::TestWithParam<Fault> {
 protected:
  static constexpr uint64_t kPages = 8;
  static constexpr uint64_t kFarPage = kPagesPerSegment + 3;
  using State = std::vector<uint64_t>;  // value by page, then of the far page; 0: zero

  static uint64_t page_number(size_t index) { return index < kPages ? index : kFarPage; }

  // One epoch: from the state to the next, in two calls, the first with pages of neither.
  static bool log(Image& image, const State& state, const State& next) {
    for (const bool last : {false, true}) {
      std::vector<test::Page> contents;
      std::vector<PageWrite> writes;
      contents.reserve(state.size());
      for (size_t i = 0; i < state.size(); ++i) {
        if (state[i] == next[i]) continue;
        const uint64_t value = last ? next[i] : 1000 + i;
        contents.push_back(value == 0 ? test::Page(kPageSize) : test::pattern_page(value));
        writes.push_back({PageIndex(page_number(i)), contents.back().data()});
      }
      if (!image.log_pages(writes)) return false;
    }
    return true;
  }

  static std::vector<State> epochs() {
    State state(kPages + 1);
    std::vector<State> all = {state};
    for (uint64_t i = 0; i < kPages; ++i) state[i] = 10 + i;
    all.push_back(state);
    state[0] = 20;
    state[1] = 0;
    state[kPages] = 21;
    all.push_back(state);
    state[0] = 10;
    state[1] = 31;
    state[2] = 0;
    all.push_back(state);
    return all;
  }

  // Returns how many epochs are committed.
  static size_t work(Image& image, bool& all_done) {
    const std::vector<State> states = epochs();
    size_t done = 0;
    while (done + 1 < states.size()) {
      if (!log(image, states[done], states[done + 1])) return done;
      if (done == 1 && !image.checkpoint(3)) return done;
      if (!image.commit()) return done;
      ++done;
      if (done == 2 && !image.checkpoint(UINT64_MAX)) return done;
    }
    all_done = image.close().has_value();
    return done;
  }

  static State look_at(const Image& image) {
    State state;
    for (size_t i = 0; i <= kPages; ++i) {
      const test::Page data = test::read_page(image, page_number(i));
      uint64_t value = data == test::Page(kPageSize) ? 0 : UINT64_MAX;
      for (uint64_t v = 10; v < 40; ++v) {
        if (data == test::pattern_page(v)) value = v;
      }
      state.push_back(value);
    }
    return state;
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
};

TEST_P(EpochFaultTest, ItIsAsAnEpochLeftIt) {
  const std::vector<State> states = epochs();
  uint64_t nth = 1;
  for (;; nth += test::fault_step()) {
    ASSERT_LT(nth, 1000u);
    std::filesystem::remove(path_);
    test::create_image(path_, kSize, 4 * kMiB);
    size_t done = 0;
    bool all_done = false;
    bool hit = false;
    {
      const test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
      OpenOptions options;
      options.access = Access::kReadWrite;
      auto image = Image::open(path_, options);
      if (image) done = work(**image, all_done);
      hit = plan.hit();
      // Releasing the log's space at close is the one call whose failure does not matter.
      const bool may_pass = GetParam().call == test::Call::kPunch;
      EXPECT_TRUE(!hit || !all_done || may_pass) << "call " << nth << " failed unnoticed";
    }
    {
      const auto image = test::open_image(path_);
      ASSERT_NE(image, nullptr);
      const State found = look_at(*image);
      const bool as_before = found == states[done];
      const bool as_after = done + 1 < states.size() && found == states[done + 1];
      EXPECT_TRUE(as_before || as_after) << "call " << nth << ", epoch " << done;
      ASSERT_OK(image->close());
    }
    test::expect_clean_check(path_, true);
    if (!hit || ::testing::Test::HasFailure()) break;
  }
  std::printf("%s: of %lu calls, one in %lu failed in turn\n",
              test::call_name(GetParam().call).c_str(), static_cast<unsigned long>(nth - 1),
              static_cast<unsigned long>(test::fault_step()));
  EXPECT_GT(nth, 1u);
}

// What fails before anything is logged changes nothing, and the epoch goes on.
TEST_P(EpochFaultTest, AnEpochGoesOnAfterAFailureThatIsNoneOfTheLog) {
  test::create_image(path_, kSize, 4 * kMiB);
  const auto image = test::open_image(path_);
  const std::vector<State> states = epochs();
  ASSERT_TRUE(log(*image, states[0], states[1]));
  bool logged = false;
  {
    const test::FaultPlan plan(GetParam().call, 1, GetParam().sys_errno, true);
    logged = log(*image, states[1], states[2]);
  }
  const auto epoch = image->commit();
  if (GetParam().call == test::Call::kWrite || GetParam().call == test::Call::kFlush) {
    // The log itself is concerned, or what is stored in place, or any later flush.
    EXPECT_FALSE(epoch.has_value());
    return;
  }
  ASSERT_OK(epoch);
  EXPECT_EQ(logged, GetParam().call == test::Call::kPunch);
  EXPECT_EQ(look_at(*image), states[logged ? 2 : 1]);
}

INSTANTIATE_TEST_SUITE_P(Calls, EpochFaultTest, kFaults, fault_name);
INSTANTIATE_TEST_SUITE_P(Calls, FaultTest, kFaults, fault_name);
INSTANTIATE_TEST_SUITE_P(Calls, SnapshotFaultTest, kFaults, fault_name);

}  // namespace
}  // namespace pcow
