// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/residency_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "tests/unit/tiering/fixture.h"

namespace tiering {
namespace {

using pcow::ChunkIndex;
using testing::must;

constexpr uint64_t kChunks = 640;
constexpr uint64_t kTurn = kChunks / ResidencyCache::kTurns;  // chunks that have their turn at once

class ResidencyCacheTest : public ::testing::Test {
 protected:
  using Counts = std::map<uint64_t, uint64_t>;  // chunk → copies; the others have none

  Counts refresh() {
    looked_at_.clear();
    Counts found;
    for (const ChunkResidency& chunk : must(cache_.refresh(look_))) {
      EXPECT_TRUE(found.empty() || found.rbegin()->first < chunk.chunk.value);
      found[chunk.chunk.value] = chunk.resident.count();
    }
    return found;
  }
  void put(uint64_t chunk, uint64_t copies) {
    there_[chunk] = copies;
    cache_.invalidate({ChunkIndex(chunk), 1});
  }

  Counts there_;
  std::vector<uint64_t> looked_at_;
  bool fails_ = false;
  ResidencyCache::Look look_ = [this](ChunkRun run,
                                      std::vector<ChunkResidency>& found) -> pcow::Result<void> {
    for (ChunkIndex chunk = run.first; chunk < run.end(); ++chunk) {
      looked_at_.push_back(chunk.value);
      const auto there = there_.find(chunk.value);
      if (there == there_.end() || there->second == 0) continue;
      found.emplace_back().chunk = chunk;
      for (uint64_t i = 0; i < there->second; ++i) found.back().resident.set(i);
    }
    if (fails_) return pcow::make_error(pcow::Code::kIo, "as ordered");
    return {};
  };
  ResidencyCache cache_{kChunks};
};

TEST_F(ResidencyCacheTest, FirstAllIsLookedAt) {
  there_ = {{0, 1}, {5, 2}, {kChunks - 1, 3}};
  EXPECT_EQ(refresh(), there_);
  EXPECT_EQ(looked_at_.size(), kChunks);
}

TEST_F(ResidencyCacheTest, ThenWhatChangedAndWhoseTurnItIs) {
  there_ = {{100, 1}, {200, 2}, {300, 3}};
  refresh();
  put(99, 9);
  put(200, 0);
  put(201, 7);
  put(300, 4);
  EXPECT_EQ(refresh(), (Counts{{99, 9}, {100, 1}, {201, 7}, {300, 4}}));
  EXPECT_EQ(looked_at_.size(), 4 + kTurn);
  EXPECT_EQ(refresh().size(), 4U);
  EXPECT_EQ(looked_at_.size(), kTurn);
}

TEST_F(ResidencyCacheTest, WhatNobodySaidIsFoundAsAllTakeTurns) {
  there_ = {{100, 1}, {600, 2}};
  refresh();
  there_[600] = 8;
  there_[3] = 5;
  for (uint64_t i = 0; i < ResidencyCache::kTurns; ++i) refresh();
  EXPECT_EQ(refresh(), there_);
}

TEST_F(ResidencyCacheTest, AFailureForgetsNothing) {
  there_ = {{100, 1}, {200, 2}};
  refresh();
  put(100, 3);
  put(400, 4);
  fails_ = true;
  EXPECT_FALSE(cache_.refresh(look_));
  fails_ = false;
  EXPECT_EQ(refresh(), (Counts{{100, 3}, {200, 2}, {400, 4}}));
  cache_.invalidate_all();
  refresh();
  EXPECT_EQ(looked_at_.size(), kChunks);
}

}  // namespace
}  // namespace tiering
