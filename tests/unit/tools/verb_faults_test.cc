// SPDX-License-Identifier: BSD-3-Clause
//
// Every verb of pcow-img, with every kind of call to the kernel failing, one after the other; with
// memory running out; and ended in front of the calls that change a file. Where a verb makes many
// calls of a kind some of them fail, other ones in every run (calls_to_fail()).
//
// After each: the exit code and the message say what happened and to which file; what was only read
// is as it was, to the byte; what was to be made is there as a whole, or what it was to replace is,
// and nothing else; what was to be changed is as before or as after, and sound; and the same
// command then works. A verb that says that it worked has done, and printed, what it does without
// faults.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>

#include "tests/support/test_seed.h"
#include "tests/unit/tools/program_run.h"
#include "tests/unit/tools/verb_cases.h"

int pcow_img_main(int argc, char** argv);

namespace {

using test::Allowed;
using test::Call;
using test::Fault;
using test::kCrash;
using test::ProgramOutcome;
using test::Shown;
using testing::HasSubstr;

// Calls of a kind that fail; fewer where each run starts qemu-img twice.
constexpr uint64_t kCallsAtMost = 8;
constexpr uint64_t kSlowCallsAtMost = 2;

constexpr Fault kFaults[] = {
    {Call::kWrite, EIO},      {Call::kWrite, ENOSPC},  {Call::kFlush, EIO},
    {Call::kReserve, ENOSPC}, {Call::kPunch, EIO},     {Call::kExtend, ENOSPC},
    {Call::kRead, EIO},       {Call::kSeek, EIO},      {Call::kOpen, EMFILE},
    {Call::kOpen, EACCES},    {Call::kStat, EIO},      {Call::kLock, ENOLCK},
    {Call::kRename, EIO},     {Call::kMap, ENOMEM},    {Call::kAdvise, ENOMEM},
    {Call::kTrack, EPERM},    {Call::kSocket, EIO},    {Call::kAllocate, ENOMEM},
    {Call::kWrite, kCrash},   {Call::kFlush, kCrash},  {Call::kReserve, kCrash},
    {Call::kPunch, kCrash},   {Call::kExtend, kCrash}, {Call::kRename, kCrash}};

// Whether a message is to say what the kernel said. Of memory, and of how writes to it are found,
// it says what to do.
bool is_of_files(Call call) {
  return call != Call::kMap && call != Call::kAdvise && call != Call::kTrack &&
         call != Call::kAllocate && call != Call::kSocket;
}

class VerbFaultTest : public ::testing::TestWithParam<size_t> {
 protected:
  using Digests = std::map<std::string, std::string>;

  void SetUp() override {
    if (verb_.by_qemu_img && !test::have_qemu_img()) GTEST_SKIP() << "there is no qemu-img here";
    make_verb_files(world_, verb_);
    world_.keep_as_start();
    world_.put_back();  // whose files take other space
    start_ = world_.digests();
    if (!verb_.changes.empty()) before_ = test::look_at_file(world_.path(verb_.changes));
    if (verb_.damaged) damage_ = corruptions_in(world_.path(verb_.changes));
    after_ = before_;
    verb_.effect(after_);
    if (!verb_.like.empty() && !is_foreign(verb_.like)) {
      made_ = test::look_at_file(world_.path(verb_.like));
      made_.snapshots.clear();
      // What it is made on; a conversion makes an image of its own.
      made_.base = verb_.name == "create_on_base" ? verb_.like : "";
    }
    run_ = {pcow_img_main, words_of(verb_), world_.directory(), verb_.input};
    undisturbed_ = run_undisturbed(run_);
    ASSERT_TRUE(undisturbed_.ended) << describe(undisturbed_);
    ASSERT_NE(undisturbed_.exit_code, verb_.error_code) << describe(undisturbed_);
    expect_done(undisturbed_);
  }

  bool reads_only() const { return verb_.changes.empty() && verb_.makes.empty(); }
  static bool is_foreign(const std::string& name) { return !name.ends_with(".pcow"); }
  bool makes(const std::string& name) const {
    return std::ranges::find(verb_.makes, name) != verb_.makes.end();
  }
  bool may_write(const std::string& name) const {
    return makes(name) || name == verb_.changes ||
           std::ranges::find(verb_.touches, name) != verb_.touches.end();
  }

  // The files as they were. Those that were only read are.
  void put_back() {
    if (!verb_.changes.empty() || world_.digests() != start_) world_.put_back();
  }

  static std::string digest_of(const Digests& digests, const std::string& name) {
    const auto found = digests.find(name);
    return found == digests.end() ? "not there" : found->second;
  }

  static uint64_t corruptions_in(const std::string& path) {
    const auto report = pcow::check_image(path, false, {});
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report ? report->corruptions : 0;
  }

  // What was there to be read only.
  void expect_sources_untouched(const Digests& now) const {
    for (const auto& [name, digest] : start_) {
      EXPECT_TRUE(may_write(name) || digest_of(now, name) == digest) << name << " was changed";
    }
  }

  // Nothing is there that was not, but for what was to be made.
  void expect_no_litter(const Digests& now) const {
    for (const auto& [name, digest] : now) {
      EXPECT_TRUE(start_.contains(name) || makes(name)) << name << " was left behind";
    }
  }

  void expect_made() {
    const std::string path = world_.path(verb_.makes.back());
    if (!is_foreign(path)) return world_.verify(path, made_, made_, Allowed::kBefore);
    std::string raw = path;
    if (!path.ends_with(".raw")) {
      raw = world_.directory() + ".raw";  // beside it
      const ProgramOutcome unpacked = test::run_undisturbed(
          {pcow_img_main,
           {"pcow-img", "convert", "-f", "qcow2", "-O", "raw", "--force", path, raw},
           world_.directory()});
      ASSERT_EQ(unpacked.exit_code, 0) << describe(unpacked);
    }
    const std::string like = world_.path(verb_.like);
    const uint64_t size = std::filesystem::file_size(like);
    ASSERT_EQ(std::filesystem::file_size(raw), size);
    EXPECT_TRUE(test::file_bytes(raw, 0, size) == test::file_bytes(like, 0, size));
  }

  void expect_done(const ProgramOutcome& outcome) {
    EXPECT_EQ(outcome.exit_code, undisturbed_.exit_code) << describe(outcome);
    EXPECT_TRUE(!verb_.same_output || outcome.out == undisturbed_.out) << describe(outcome);
    const Digests now = world_.digests();
    expect_sources_untouched(now);
    expect_no_litter(now);
    if (!verb_.makes.empty()) expect_made();
    if (!verb_.changes.empty()) expect_changed(after_, after_, Allowed::kBefore);
  }

  // In a copy: the program goes on with the files as they are.
  void expect_changed(const Shown& before, const Shown& after, Allowed allowed) {
    world_.copy_crashed();
    world_.verify(world_.crashed(verb_.changes), before, after, allowed);
    for (const std::string& name : verb_.touches) {
      if (name.ends_with(".pcow")) test::expect_clean_check(world_.crashed(name), true);
    }
  }

  // A repair that was not done may have left damage, but nothing more of it.
  void expect_no_worse() {
    world_.copy_crashed();
    const std::string path = world_.crashed(verb_.changes);
    EXPECT_LE(corruptions_in(path), damage_);
    EXPECT_EQ(describe(test::look_at_file(path)), describe(before_));
  }

  // As before or as after; and what was asked for can be had now.
  void expect_changed_or_not() {
    if (verb_.damaged) {
      expect_no_worse();
    } else {
      expect_changed(before_, after_, Allowed::kEither);
    }
    if (HasFailure()) return;
    const ProgramOutcome again = run_undisturbed(run_);
    SCOPED_TRACE("again: " + describe(again));
    // A snapshot that is there, or gone.
    const bool was_done = again.err.find("' already") != std::string::npos ||
                          again.err.find("has no snapshot") != std::string::npos;
    EXPECT_TRUE(was_done || again.exit_code == undisturbed_.exit_code);
    expect_changed(after_, after_, Allowed::kBefore);
  }

  // All of what was to be made, or nothing of it: then what was there before is there.
  void expect_whole_or_nothing(const Digests& now, bool crashed) {
    const std::string& name = verb_.makes.back();
    const bool there = now.contains(name);
    const bool old = start_.contains(name);
    // What is replaced may be so when the last step of all fails, making that durable.
    const bool replaced = old && digest_of(now, name) != digest_of(start_, name);
    if ((there && crashed && !old) || replaced) return expect_made();
    EXPECT_EQ(there, old);
    for (const std::string& other : verb_.makes) {
      if (crashed) break;  // a member, which is nothing by itself
      EXPECT_EQ(digest_of(now, other), digest_of(start_, other)) << other;
    }
  }

  bool names_a_file(const std::string& message) const {
    const auto named = [&](const std::string& name) {
      return message.find(name) != std::string::npos;
    };
    return named("the standard ") || named("qemu-img") || std::ranges::any_of(verb_.makes, named) ||
           std::ranges::any_of(start_, [&](const auto& file) { return named(file.first); });
  }

  void expect_message(const ProgramOutcome& outcome, const Fault& fault) const {
    EXPECT_EQ(outcome.exit_code, verb_.error_code);
    EXPECT_THAT(outcome.err, HasSubstr("pcow-img: "));
    EXPECT_THAT(outcome.err, Not(HasSubstr("internal error")));
    // Memory may run out where there is no file yet.
    const bool of_memory = fault.call == Call::kAllocate &&
                           outcome.err.find(std::strerror(ENOMEM)) != std::string::npos;
    EXPECT_TRUE(of_memory || names_a_file(outcome.err)) << "no file is named";
    if (is_of_files(fault.call)) {
      EXPECT_THAT(outcome.err, HasSubstr(std::strerror(fault.sys_errno)));
    }
  }

  void expect_nothing_lost(const ProgramOutcome& outcome, const Fault& fault) {
    const bool crashed = fault.sys_errno == kCrash;
    if (!crashed) expect_message(outcome, fault);
    const Digests now = world_.digests();
    expect_sources_untouched(now);
    if (!crashed) expect_no_litter(now);
    if (!verb_.makes.empty()) expect_whole_or_nothing(now, crashed);
    if (!verb_.changes.empty()) expect_changed_or_not();
  }

  void fail_call(const Fault& fault, uint64_t nth) {
    put_back();
    const ProgramOutcome outcome = run_with_fault(run_, fault, nth);
    SCOPED_TRACE(describe(outcome));
    ASSERT_TRUE(outcome.ended);
    if (outcome.exit_code == undisturbed_.exit_code) {
      EXPECT_FALSE(outcome.hit && fault.call == Call::kFlush) << "a flush failed unnoticed";
      expect_done(outcome);
    } else {
      EXPECT_TRUE(outcome.hit);
      expect_nothing_lost(outcome, fault);
    }
  }

  const test::VerbCase verb_ = test::verb_cases().at(GetParam());
  test::FaultWorld world_;
  test::ProgramRun run_;
  ProgramOutcome undisturbed_;
  Digests start_;
  Shown before_;
  Shown after_;
  Shown made_;
  uint64_t damage_ = 0;
};

TEST_P(VerbFaultTest, NothingIsLostWhicheverCallFails) {
  std::mt19937_64 random(test::test_seed());
  const uint64_t most = verb_.by_qemu_img ? kSlowCallsAtMost : kCallsAtMost;
  uint64_t failed = 0;
  std::string counts;
  for (const Fault& fault : kFaults) {
    if (fault.sys_errno == kCrash && reads_only()) continue;
    const uint64_t calls = count_of(undisturbed_.calls, fault.call);
    const std::vector<uint64_t> chosen = test::calls_to_fail(calls, most, random);
    for (const uint64_t nth : chosen) {
      SCOPED_TRACE(verb_.name + ": call " + std::to_string(nth) + " of " + std::to_string(calls) +
                   ": " + fault_text(fault));
      fail_call(fault, nth);
      if (HasFailure()) return;
    }
    failed += chosen.size();
    if (fault.sys_errno == kCrash) continue;
    counts += " " + call_name(fault.call) + " " + std::to_string(chosen.size()) + "/" +
              std::to_string(calls);
  }
  EXPECT_GT(failed, 0u);
  std::printf("%s: %llu failed:%s\n", verb_.name.c_str(), static_cast<unsigned long long>(failed),
              counts.c_str());
}

TEST_P(VerbFaultTest, ItCopesWithInterruptions) {
  put_back();
  const ProgramOutcome outcome = run_interrupted(run_);
  ASSERT_TRUE(outcome.ended) << describe(outcome);
  expect_done(outcome);
}

// It has done what it does all the same.
TEST_P(VerbFaultTest, AFullStandardOutputIsAnError) {
  put_back();
  const ProgramOutcome outcome = run_on_full_output(run_);
  ASSERT_TRUE(outcome.ended) << describe(outcome);
  if (undisturbed_.out.empty()) return expect_done(outcome);
  EXPECT_EQ(outcome.exit_code, verb_.error_code);
  EXPECT_THAT(outcome.err, HasSubstr("cannot write the standard output"));
  expect_sources_untouched(world_.digests());
  if (!verb_.makes.empty()) expect_made();
  if (!verb_.changes.empty()) expect_changed(after_, after_, Allowed::kBefore);
}

INSTANTIATE_TEST_SUITE_P(Verbs, VerbFaultTest,
                         ::testing::Range(size_t{0}, test::verb_cases().size()),
                         [](const ::testing::TestParamInfo<size_t>& param) {
                           return test::verb_cases().at(param.param).name;
                         });

}  // namespace
