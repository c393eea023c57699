// SPDX-License-Identifier: BSD-3-Clause
//
// Every operation, with every kind of call to the kernel failing, the first, the second, …, until
// the operation does not get that far; and with memory running out at every allocation.
//
// After each: the error says what happened and to which file; the image that is open shows what it
// should; a crash now would leave an allowed state (copy_crashed), and nothing that the checker
// finds or that cannot be reclaimed; doing the same again succeeds, unless the image says that it
// takes no more writes, and then opening it again brings back all that was committed.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "tests/support/syscall_faults.h"
#include "tests/unit/pcow/fault_operations.h"

namespace pcow {
namespace {

using test::Allowed;
using test::Call;
using test::Operation;
using test::Session;
using test::Shown;

struct Fault {
  Call call;
  int sys_errno;
  Code code;
  // Whether the operation can be repeated: nothing was stored, or what was can be stored again.
  bool repeatable;
};

constexpr Fault kFaults[] = {
    {Call::kWrite, EIO, Code::kIo, false},
    {Call::kWrite, ENOSPC, Code::kNoSpace, false},
    {Call::kFlush, EIO, Code::kIo, false},
    {Call::kReserve, ENOSPC, Code::kNoSpace, true},
    {Call::kReserve, EIO, Code::kIo, true},
    {Call::kPunch, EIO, Code::kIo, false},
    {Call::kExtend, ENOSPC, Code::kNoSpace, true},
    {Call::kExtend, EIO, Code::kIo, true},
    {Call::kRead, EIO, Code::kIo, false},
    {Call::kSeek, EIO, Code::kIo, true},
    {Call::kOpen, EMFILE, Code::kNoMemory, true},
    {Call::kStat, EIO, Code::kIo, true},
    {Call::kLock, ENOLCK, Code::kIo, true},
    {Call::kRename, EIO, Code::kIo, true},
    {Call::kMap, ENOMEM, Code::kNoMemory, false},
    {Call::kAdvise, ENOMEM, Code::kNoMemory, false},
    {Call::kAllocate, ENOMEM, Code::kNoMemory, true},
};

std::string fault_text(const Fault& fault) {
  return test::call_name(fault.call) + " fails with " + std::to_string(fault.sys_errno);
}

class OperationFaultTest : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    start_ = operation_.start(world_);
    world_.keep_as_start();
  }

  // Into `before_` and `after_`: what is there durably to begin with, and after the operation.
  Session begin() {
    world_.put_back();
    Session session{world_, nullptr};
    before_ = start_;
    operation_.setup(session, before_);
    after_ = before_;
    operation_.effect(after_);
    shown_before_.reset();
    if (session.image) shown_before_ = test::look_at(*session.image);
    return session;
  }

  Result<void> run(Session& session) {
    try {
      return operation_.run(session);
    } catch (const std::exception& exception) {
      ADD_FAILURE() << "an exception crossed the boundary: " << exception.what();
      return make_error(Code::kInternal, exception.what());
    }
  }

  void expect_error(const Error& error, const Fault& fault) {
    EXPECT_EQ(code_name(error.code), code_name(fault.code)) << error.message;
    EXPECT_EQ(error.sys_errno, fault.sys_errno) << error.message;
    const std::string directory = std::filesystem::path(world_.path()).parent_path().string();
    EXPECT_NE(error.message.find(directory), std::string::npos) << error.message;
  }

  // Shown by an image that is open. What it has not committed it may show as well.
  void expect_shown(const Session& session) {
    if (!session.image || base_is_closed()) return;
    Shown found = test::look_at(*session.image);
    Shown before = before_;
    Shown after = after_;
    for (Shown* shown : {&found, &before, &after}) shown->snapshots.clear();
    if (operation_.name == "open_snapshot") before.active = after.active = kept_b();
    if (shown_before_ && found == *shown_before_) return;
    const bool page_wise = operation_.failed == Allowed::kPageWise;
    test::expect_allowed(found, before, after, page_wise ? Allowed::kPageWise : Allowed::kEither);
  }
  test::PageValues kept_b() const { return before_.snapshots.at("b"); }
  // After these the image can be closed only.
  bool base_is_closed() const {
    return operation_.name == "set_base" || operation_.name.starts_with("commit_to_");
  }

  // The operation is done: what it did is there for good.
  void expect_done(Session& session) {
    if (session.image) {
      const Result<Epoch> epoch = session.image->commit();
      const bool not_writable = !epoch && epoch.error().code == Code::kInvalid;
      ASSERT_TRUE(epoch || not_writable) << epoch.error().message;
      ASSERT_OK(session.image->close());
      session.image.reset();
    }
    world_.verify(world_.path(), after_, after_, Allowed::kBefore);
    if (std::filesystem::exists(world_.fresh_path())) {
      test::expect_clean_check(world_.fresh_path());
    }
  }

  std::set<std::string> file_names() const {
    std::set<std::string> names;
    const auto directory = std::filesystem::path(world_.path()).parent_path();
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }

  // A call failed, and the operation said so.
  void expect_nothing_lost(Session& session, const Fault& fault) {
    expect_shown(session);
    world_.copy_crashed();
    world_.verify(world_.crashed(), before_, after_, operation_.failed);
    if (session.image && base_is_closed()) {
      session.image.reset();
      session.image = test::open_image(world_.path());
    } else if (session.image && fault.call == Call::kFlush) {
      const Result<Epoch> epoch = session.image->commit();
      const Result<void> closed = session.image->close();
      EXPECT_FALSE(epoch.has_value() || closed.has_value()) << "flushed after a flush had failed";
    }
    const Result<void> again = run(session);
    // A snapshot that is gone, or there.
    const bool done_already =
        !again && (again.error().code == Code::kExists || again.error().code == Code::kNotFound);
    if (again || done_already) return expect_done(session);
    // An epoch ends where the log got records that there was no memory to remember. On
    // byte-addressable media storing takes a mapping, which may fail half-way.
    const bool byte_addressable =
        session.image && session.image->info().granularity != Granularity::kPage;
    const bool half_stored = !operation_.durable || byte_addressable;
    EXPECT_TRUE(!fault.repeatable || (fault.call == Call::kAllocate && half_stored))
        << again.error().message;
    EXPECT_EQ(code_name(again.error().code), "io") << again.error().message;
    expect_shown(session);
    session.image.reset();
    world_.verify(world_.path(), before_, after_, operation_.failed);
  }

  // Returns whether the operation got as far as the nth call.
  bool fail_call(const Fault& fault, uint64_t nth) {
    Session session = begin();
    const std::set<std::string> files = file_names();
    bool hit = false;
    Result<void> result;
    {
      const test::FaultPlan plan(fault.call, nth, fault.sys_errno);
      result = run(session);
      hit = plan.hit();
    }
    if (result) {
      EXPECT_FALSE(hit && fault.call == Call::kFlush) << "a flush failed unnoticed";
      expect_done(session);
      return hit;
    }
    EXPECT_TRUE(hit) << result.error().message;
    expect_error(result.error(), fault);
    EXPECT_EQ(file_names(), files);
    expect_nothing_lost(session, fault);
    return hit;
  }

  const test::Operation operation_ = test::operations().at(GetParam());
  test::FaultWorld world_;
  Shown start_;
  Shown before_;
  Shown after_;
  std::optional<Shown> shown_before_;  // by the image, with what is not committed
};

TEST_P(OperationFaultTest, NothingIsLostWhicheverCallFails) {
  std::string counts;
  for (const Fault& fault : kFaults) {
    uint64_t nth = 1;
    uint64_t hits = 0;
    for (bool hit = true; hit && !HasFailure(); nth += test::fault_step()) {
      SCOPED_TRACE(operation_.name + ": call " + std::to_string(nth) + ": " + fault_text(fault));
      ASSERT_LT(nth, 20000u);
      hit = fail_call(fault, nth);
      if (hit) ++hits;
    }
    counts += " " + test::call_name(fault.call) + " " + std::to_string(hits);
    if (HasFailure()) break;
  }
  std::printf("%s:%s\n", operation_.name.c_str(), counts.c_str());
}

TEST(OperationFaultMedium, IsTheOneThatWasAskedFor) {
  test::FaultWorld world;
  test::create_image(world.path(), test::FaultWorld::kSize, 4 * kMiB);
  const auto image = test::open_image(world.path());
  const char* const forced = std::getenv("PMEM2_FORCE_GRANULARITY");
  if (forced != nullptr) {
    EXPECT_EQ(granularity_name(image->info().granularity), "cache-line") << forced;
  }
  ASSERT_OK(image->close());
}

// Calls that do a part of what they are asked to, or nothing because of a signal, are no failures.
TEST_P(OperationFaultTest, ItCopesWithInterruptions) {
  Session session = begin();
  Result<void> result;
  {
    const test::Interruptions interruptions;
    result = run(session);
    expect_shown(session);
  }
  ASSERT_OK(result);
  expect_done(session);
}

INSTANTIATE_TEST_SUITE_P(Operations, OperationFaultTest,
                         ::testing::Range(size_t{0}, test::operations().size()),
                         [](const ::testing::TestParamInfo<size_t>& param) {
                           return test::operations().at(param.param).name;
                         });

}  // namespace
}  // namespace pcow
