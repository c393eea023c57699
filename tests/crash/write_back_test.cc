// SPDX-License-Identifier: BSD-3-Clause
//
// The model of the medium, on traces small enough to know every state by heart.
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "tests/crash/choices.h"

namespace crash {
namespace {

Event store(uint64_t offset, size_t length, char value) {
  Event event{EventKind::kStore};
  event.offset = offset;
  event.length = length;
  event.bytes.assign(length, static_cast<std::byte>(value));
  return event;
}

Event file_change(EventKind kind, uint64_t offset, uint64_t length) {
  Event event{kind};
  event.offset = offset;
  event.length = length;
  return event;
}

class WriteBackTest : public ::testing::Test {
 protected:
  static SparseBytes blank() {
    SparseBytes bytes;
    bytes.size = pcow::kMiB;
    return bytes;
  }

  // Every state, as the first byte of each of the first words, '.' for zero.
  static std::set<std::string> states(WriteBack& write_back, size_t words, size_t step) {
    Random random(1);
    const Choices choices = choose(write_back, {1024, 8}, random);
    EXPECT_TRUE(choices.exhaustive);
    std::set<std::string> seen;
    for (const Choice& choice : choices.list) {
      if (!choice.torn.empty()) continue;
      seen.insert(text(write_back.state(choice), words, step));
    }
    return seen;
  }

  static std::string text(const SparseBytes& bytes, size_t words, size_t step) {
    std::string result;
    for (size_t word = 0; word < words; ++word) {
      char value = 0;
      bytes.read(word * step, std::as_writable_bytes(std::span(&value, 1)));
      result += value == 0 ? '.' : value;
    }
    return result;
  }
};

TEST_F(WriteBackTest, AnySubsetOfLinesLandsUntilADrain) {
  WriteBack medium(blank(), MediumKind::kPmem);
  medium.apply(store(0, 128, 'a'), 0);
  EXPECT_EQ(states(medium, 2, 64), (std::set<std::string>{"..", "a.", ".a", "aa"}));
  medium.apply({EventKind::kDrain}, 1);
  EXPECT_EQ(states(medium, 2, 64), (std::set<std::string>{"aa"}));
  medium.apply(store(0, 64, 'b'), 2);
  medium.apply(store(0, 64, 'c'), 3);
  EXPECT_EQ(states(medium, 2, 64), (std::set<std::string>{"aa", "ba", "ca"}));
}

TEST_F(WriteBackTest, ALineIsTornAtWords) {
  WriteBack medium(blank(), MediumKind::kPmem);
  medium.apply(store(0, 16, 'a'), 0);
  Random random(1);
  std::set<std::string> seen;
  for (const Choice& choice : choose(medium, {}, random).list) {
    seen.insert(text(medium.state(choice), 3, 8));
  }
  EXPECT_EQ(seen, (std::set<std::string>{"...", "a..", ".a.", "aa."}));
}

TEST_F(WriteBackTest, AnUnflushedLineOutlivesADrain) {
  WriteBack medium(blank(), MediumKind::kPmem);
  Event event = store(0, 64, 'a');
  event.flushed = false;
  medium.apply(event, 0);
  medium.apply({EventKind::kDrain}, 1);
  EXPECT_EQ(states(medium, 1, 64), (std::set<std::string>{".", "a"}));
  medium.apply({EventKind::kSync}, 2);
  EXPECT_EQ(states(medium, 1, 64), (std::set<std::string>{"a"}));
}

TEST_F(WriteBackTest, SectorsLandWholeUntilASync) {
  WriteBack medium(blank(), MediumKind::kPage);
  medium.apply(store(0, 1024, 'a'), 0);
  medium.apply({EventKind::kDrain}, 1);
  EXPECT_EQ(states(medium, 4, 256), (std::set<std::string>{"....", "aa..", "..aa", "aaaa"}));
  medium.apply({EventKind::kSync}, 2);
  EXPECT_EQ(states(medium, 4, 256), (std::set<std::string>{"aaaa"}));
}

TEST_F(WriteBackTest, AHoleNeedsASync) {
  SparseBytes bytes = blank();
  bytes.write(0, store(0, 64, 'a').bytes);
  WriteBack medium(bytes, MediumKind::kPmem);
  medium.apply(file_change(EventKind::kPunch, 0, pcow::kPageSize), 0);
  medium.apply({EventKind::kDrain}, 1);
  EXPECT_EQ(states(medium, 1, 64), (std::set<std::string>{".", "a"}));
  medium.apply({EventKind::kSync}, 2);
  EXPECT_EQ(states(medium, 1, 64), (std::set<std::string>{"."}));
  EXPECT_FALSE(medium.state(medium.everything_landed()).present(0));
}

TEST_F(WriteBackTest, WhatLiesBeyondTheDurableLengthIsLost) {
  SparseBytes bytes;
  WriteBack medium(bytes, MediumKind::kPmem);
  medium.apply(file_change(EventKind::kResize, 0, pcow::kMiB), 0);
  medium.apply(store(0, 64, 'a'), 1);
  medium.apply({EventKind::kDrain}, 2);
  std::set<uint64_t> sizes;
  Random random(1);
  for (const Choice& choice : choose(medium, {}, random).list) {
    const SparseBytes state = medium.state(choice);
    EXPECT_EQ(text(state, 1, 64), state.size == 0 ? "." : "a");
    sizes.insert(state.size);
  }
  EXPECT_EQ(sizes, (std::set<uint64_t>{0, pcow::kMiB}));
}

// The files of a stripe set lie on file systems of their own: what one has of its changes says
// nothing of the other.
TEST_F(WriteBackTest, TheChangesOfEachFileAreCutByThemselves) {
  WriteBack medium(SparseBytes{}, MediumKind::kPage);
  medium.apply(file_change(EventKind::kResize, 0, pcow::kMiB), 0);
  medium.apply(file_change(EventKind::kResize, kSecondFile, pcow::kMiB), 1);
  medium.apply(file_change(EventKind::kResize, 0, 2 * pcow::kMiB), 2);
  const auto sizes = [&] {
    std::set<std::pair<uint64_t, uint64_t>> seen;
    Random random(1);
    for (const Choice& choice : choose(medium, {}, random).list) {
      const SparseBytes state = medium.state(choice);
      seen.insert({state.size / pcow::kMiB, state.second_size / pcow::kMiB});
    }
    return seen;
  };
  using Sizes = std::set<std::pair<uint64_t, uint64_t>>;
  EXPECT_EQ(sizes(), (Sizes{{0, 0}, {1, 0}, {2, 0}, {0, 1}, {1, 1}, {2, 1}}));
  medium.apply(file_change(EventKind::kSync, kSecondFile, 0), 3);
  EXPECT_EQ(sizes(), (Sizes{{0, 1}, {1, 1}, {2, 1}}));
  medium.apply(file_change(EventKind::kSync, 0, 0), 4);
  EXPECT_EQ(sizes(), (Sizes{{2, 1}}));
}

TEST_F(WriteBackTest, ASampleHasAllOfOneFileAndNothingOfTheOther) {
  SparseBytes bytes = blank();
  bytes.second_size = pcow::kMiB;
  WriteBack medium(bytes, MediumKind::kPage);
  for (size_t n = 0; n < 20; ++n) {
    medium.apply(store(n * 512, 512, 'a'), 2 * n);
    medium.apply(store(kSecondFile + n * 512, 512, 'a'), 2 * n + 1);
  }
  Random random(1);
  const Choices choices = choose(medium, {64, 16}, random);
  EXPECT_FALSE(choices.exhaustive);
  std::set<std::pair<std::string, std::string>> seen;
  for (const Choice& choice : choices.list) {
    const SparseBytes state = medium.state(choice);
    std::string second;
    for (size_t n = 0; n < 20; ++n) {
      char value = 0;
      state.read(kSecondFile + n * 512, std::as_writable_bytes(std::span(&value, 1)));
      second += value == 0 ? '.' : value;
    }
    seen.insert({text(state, 20, 512), second});
  }
  EXPECT_TRUE(seen.contains({std::string(20, 'a'), std::string(20, '.')}));
  EXPECT_TRUE(seen.contains({std::string(20, '.'), std::string(20, 'a')}));
}

TEST_F(WriteBackTest, ASampleHasTheExtremes) {
  WriteBack medium(blank(), MediumKind::kPmem);
  for (size_t n = 0; n < 20; ++n) medium.apply(store(n * 64, 64, 'a'), n);
  Random random(1);
  const Choices choices = choose(medium, {64, 128}, random);
  EXPECT_FALSE(choices.exhaustive);
  std::set<std::string> seen;
  for (const Choice& choice : choices.list) seen.insert(text(medium.state(choice), 20, 64));
  EXPECT_TRUE(seen.contains(std::string(20, '.')));
  EXPECT_TRUE(seen.contains(std::string(20, 'a')));
  EXPECT_GT(seen.size(), 64u);
}

}  // namespace
}  // namespace crash
