// SPDX-License-Identifier: BSD-3-Clause
//
// Policies on cases small enough to work out by hand, then on random snapshots against the rules of
// policy.h.
#include "tiering/policy/policy.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>
#include <vector>

#include "tiering/policy/parameters.h"
#include "tiering/policy/plan_check.h"

namespace tiering {
namespace {

using pcow::kPagesPerChunk;
using pcow::PageIndex;
using Fields = PageRecord::Fields;

// A snapshot and what it points to.
class Scene {
 public:
  explicit Scene(uint64_t chunks) : words_(chunks), views_(chunks) {
    for (uint64_t i = 0; i < chunks; ++i) {
      views_[i].words = words_[i].data();
      views_[i].in_dram.chunk = pcow::ChunkIndex(i);
    }
  }

  void know(uint64_t page, const Fields& fields) { word(page) = PageRecord(fields).word(); }
  void put_in_dram(uint64_t page) { of(page).resident.set(page % kPagesPerChunk); }
  void dirty(uint64_t page) { of(page).dirty.set(page % kPagesPerChunk); }
  void pin(uint64_t page) { of(page).pinned.set(page % kPagesPerChunk); }

  PageRecord record(uint64_t page) { return PageRecord(word(page)); }
  uint64_t pages() const { return views_.size() * kPagesPerChunk; }
  Snapshot snapshot() const { return views_; }

 private:
  uint32_t& word(uint64_t page) { return words_[page / kPagesPerChunk][page % kPagesPerChunk]; }
  ChunkResidency& of(uint64_t page) { return views_[page / kPagesPerChunk].in_dram; }

  std::vector<std::array<uint32_t, kPagesPerChunk>> words_;
  std::vector<ChunkView> views_;
};

constexpr Fields kHot = {.heat = 4000, .visits = 100, .run = 1, .hit = true};
constexpr Fields kWarm = {.heat = 2000, .visits = 20, .run = 1, .hit = true};
constexpr Fields kCold = {.heat = 100, .visits = 1, .run = 40};
constexpr Budget kRoomForFour = {
    .limit_pages = 6, .high_pages = 5, .low_pages = 4, .move_pages = 100};

uint64_t refused(const Plan& plan, Verdict verdict) {
  return plan.refused[static_cast<size_t>(verdict)];
}

Verdict verdict_of(PolicyKind kind, const Plan& plan, const Scene& scene, uint64_t page) {
  return explain(kind, plan, scene.snapshot(), PageIndex(page)).verdict;
}

TEST(PolicyTest, NamesAreStable) {
  for (const PolicyKind kind : kAllPolicies) {
    EXPECT_EQ(policy_by_name(policy_name(kind)), kind);
  }
  EXPECT_FALSE(policy_by_name("lru").has_value());
}

TEST(PolicyTest, OffAndStaticNeverMove) {
  Scene scene(1);
  scene.know(7, kHot);
  for (uint64_t page = 20; page < 40; ++page) scene.put_in_dram(page);
  for (const PolicyKind kind : {PolicyKind::kOff, PolicyKind::kStatic}) {
    const Plan plan = make_plan(kind, kRoomForFour, scene.snapshot());
    EXPECT_TRUE(plan.promotions.empty());
    EXPECT_TRUE(plan.demotions.empty());
    EXPECT_EQ(verdict_of(kind, plan, scene, 7), Verdict::kPolicyStill);
  }
}

TEST(PolicyTest, PromotesHottestIntoFreeRoom) {
  Scene scene(2);
  for (const uint64_t page : {3U, 4U, 5U, 600U}) scene.know(page, kWarm);
  scene.know(601, kHot);
  const Plan plan = make_plan(PolicyKind::kHeat, kRoomForFour, scene.snapshot());
  // Room for four: the hottest, then the lowest page numbers.
  EXPECT_EQ(plan.promotions, (std::vector<PageRun>{{PageIndex(3), 3}, {PageIndex(601), 1}}));
  EXPECT_EQ(refused(plan, Verdict::kNoColderPage), 1U);
  EXPECT_EQ(verdict_of(PolicyKind::kHeat, plan, scene, 600), Verdict::kNoColderPage);
  EXPECT_EQ(verdict_of(PolicyKind::kHeat, plan, scene, 601), Verdict::kPromoted);
  EXPECT_EQ(verdict_of(PolicyKind::kHeat, plan, scene, 9), Verdict::kBelongs);
}

TEST(PolicyTest, ExchangesOnlyForColderPages) {
  Scene scene(1);
  for (uint64_t page = 0; page < 4; ++page) scene.put_in_dram(page);
  scene.know(0, kWarm);
  scene.know(1, kCold);
  scene.know(2, kHot);
  scene.know(3, kWarm);
  for (const uint64_t page : {10U, 11U, 12U}) scene.know(page, kWarm);
  const Plan plan = make_plan(PolicyKind::kHeat, kRoomForFour, scene.snapshot());
  EXPECT_EQ(plan.promotions, (std::vector<PageRun>{{PageIndex(10), 1}}));
  EXPECT_EQ(plan.demotions, (std::vector<PageRun>{{PageIndex(1), 1}}));
  EXPECT_EQ(refused(plan, Verdict::kNoColderPage), 2U);
}

TEST(PolicyTest, AboveHighDemotesToLowCleanPagesFirst) {
  Scene scene(1);
  for (uint64_t page = 0; page < 6; ++page) scene.put_in_dram(page);
  scene.dirty(0);
  scene.dirty(1);
  const Plan plan = make_plan(PolicyKind::kHeat, kRoomForFour, scene.snapshot());
  EXPECT_EQ(plan.demotions, (std::vector<PageRun>{{PageIndex(2), 2}}));
  EXPECT_EQ(plan.over_limit, 0U);
}

TEST(PolicyTest, BetweenTheWatermarksNothingIsDemoted) {
  Scene scene(1);
  for (uint64_t page = 0; page < 5; ++page) scene.put_in_dram(page);
  const Plan plan = make_plan(PolicyKind::kHeat, kRoomForFour, scene.snapshot());
  EXPECT_EQ(plan.demoted, 0U);
}

TEST(PolicyTest, RateBoundsMovesButNotTheHardLimit) {
  Scene scene(1);
  for (uint64_t page = 0; page < 9; ++page) scene.put_in_dram(page);
  Budget budget = kRoomForFour;
  budget.move_pages = 1;
  const Plan plan = make_plan(PolicyKind::kHeat, budget, scene.snapshot());
  // Three are over the limit, one more is allowed, one more was wanted.
  EXPECT_EQ(plan.demotions, (std::vector<PageRun>{{PageIndex(0), 4}}));
  EXPECT_EQ(plan.over_limit, 3U);
  EXPECT_EQ(refused(plan, Verdict::kRate), 1U);
  EXPECT_EQ(verdict_of(PolicyKind::kHeat, plan, scene, 4), Verdict::kRate);
}

TEST(PolicyTest, CoolDownHoldsUnlessTheHardLimitDemandsOtherwise) {
  Scene scene(1);
  scene.know(10, {.heat = 4000, .visits = 9, .run = 1, .hit = true, .cool_down = 3});
  Plan plan = make_plan(PolicyKind::kHeat, kRoomForFour, scene.snapshot());
  EXPECT_EQ(plan.promoted, 0U);
  EXPECT_EQ(refused(plan, Verdict::kCoolDown), 1U);

  for (uint64_t page = 0; page < 7; ++page) {
    scene.put_in_dram(page);
    scene.know(page, {.heat = static_cast<uint32_t>(page), .visits = 1, .run = 9, .cool_down = 1});
  }
  plan = make_plan(PolicyKind::kHeat, kRoomForFour, scene.snapshot());
  EXPECT_EQ(plan.demotions, (std::vector<PageRun>{{PageIndex(0), 1}}));
  EXPECT_EQ(verdict_of(PolicyKind::kHeat, plan, scene, 0), Verdict::kForced);
  EXPECT_EQ(verdict_of(PolicyKind::kHeat, plan, scene, 1), Verdict::kCoolDown);
}

TEST(PolicyTest, CoolingPagesUseUpNoRoom) {
  Scene scene(1);
  scene.know(1, {.heat = 4000, .visits = 9, .run = 1, .hit = true, .cool_down = 3});
  scene.know(2, kWarm);
  const Budget budget = {.limit_pages = 1, .high_pages = 1, .low_pages = 1, .move_pages = 1};
  const Plan plan = make_plan(PolicyKind::kHeat, budget, scene.snapshot());
  EXPECT_EQ(plan.promotions, (std::vector<PageRun>{{PageIndex(2), 1}}));
}

TEST(PolicyTest, PinnedPagesStay) {
  Scene scene(1);
  for (uint64_t page = 0; page < 8; ++page) {
    scene.put_in_dram(page);
    scene.pin(page);
  }
  const Plan plan = make_plan(PolicyKind::kHeat, kRoomForFour, scene.snapshot());
  EXPECT_EQ(plan.demoted, 0U);
  EXPECT_EQ(refused(plan, Verdict::kPinned), 8U);
}

TEST(PolicyTest, HeatWantsDoubleOddsToReplaceAPage) {
  Scene scene(1);
  scene.put_in_dram(0);
  scene.know(0, {.heat = 2047, .visits = 30, .run = 1, .hit = true, .last_read = true});  // 1 : 1
  const Budget budget = {.limit_pages = 1, .high_pages = 1, .low_pages = 1, .move_pages = 2};
  const auto moves = [&](uint32_t heat, uint32_t visits) {
    scene.know(2, {.heat = heat, .visits = visits, .run = 1, .hit = true, .last_read = true});
    return make_plan(PolicyKind::kHeat, budget, scene.snapshot()).demoted;
  };
  EXPECT_EQ(moves(2600, 30), 0U);  // 1.7 : 1
  EXPECT_EQ(moves(2800, 30), 1U);  // 2.2 : 1
  EXPECT_EQ(moves(4000, 1), 0U);   // one access only
}

TEST(PolicyTest, HeatKeepsWrittenPagesLonger) {
  Scene scene(1);
  for (uint64_t page = 0; page < 6; ++page) scene.put_in_dram(page);
  for (uint64_t page = 0; page < 3; ++page) {
    scene.know(page, {.heat = 1000, .visits = 9, .run = 2, .last_read = false});
  }
  for (uint64_t page = 3; page < 6; ++page) {
    scene.know(page, {.heat = 1200, .visits = 9, .run = 2, .last_read = true});
  }
  const Plan plan = make_plan(PolicyKind::kHeat, kRoomForFour, scene.snapshot());
  EXPECT_EQ(plan.demotions, (std::vector<PageRun>{{PageIndex(3), 2}}));
}

TEST(PolicyTest, CmqQueuesByVisitsAndExpires) {
  Scene scene(1);
  scene.put_in_dram(0);
  scene.put_in_dram(1);
  scene.know(0, {.heat = 0, .visits = 64, .run = 1, .hit = true});  // queue 7
  scene.know(1, {.heat = 0, .visits = 64, .run = 20});             // queue 7, four lifetimes ago: 3
  scene.know(2, {.heat = 0, .visits = 8, .run = 1, .hit = true});  // queue 4
  scene.know(3, {.heat = 0, .visits = 4, .run = 1, .hit = true});  // queue 3
  const Budget budget = {.limit_pages = 2, .high_pages = 2, .low_pages = 2, .move_pages = 8};
  const Plan plan = make_plan(PolicyKind::kCmq, budget, scene.snapshot());
  EXPECT_EQ(plan.promotions, (std::vector<PageRun>{{PageIndex(2), 1}}));
  EXPECT_EQ(plan.demotions, (std::vector<PageRun>{{PageIndex(1), 1}}));
}

TEST(PolicyTest, AgeReplacesTheLongestIdle) {
  Scene scene(1);
  for (uint64_t page = 0; page < 3; ++page) {
    scene.put_in_dram(page);
    scene.know(page, {.heat = 4000, .visits = 1, .run = static_cast<uint32_t>(page) * 3});
  }
  scene.know(9, kCold);
  scene.know(10, {.heat = 1, .visits = 1, .run = 1, .hit = true});
  const Budget budget = {.limit_pages = 3, .high_pages = 3, .low_pages = 3, .move_pages = 8};
  const Plan plan = make_plan(PolicyKind::kAge, budget, scene.snapshot());
  EXPECT_EQ(plan.promotions, (std::vector<PageRun>{{PageIndex(10), 1}}));
  EXPECT_EQ(plan.demotions, (std::vector<PageRun>{{PageIndex(2), 1}}));
}

Fields random_fields(std::mt19937_64& random) {
  const auto below = [&](uint32_t end) { return static_cast<uint32_t>(random() % end); };
  return {.heat = below(PageRecord::kHeatMax + 1),
          .visits = below(PageRecord::kVisitsMax + 1),
          .run = below(PageRecord::kRunMax + 1),
          .hit = below(3) == 0,
          .cool_down = below(4) == 0 ? below(PageRecord::kCoolDownMax + 1) : 0,
          .last_read = below(2) == 0};
}

Scene random_scene(std::mt19937_64& random) {
  Scene scene(1 + random() % 4);
  const uint64_t resident_percent = random() % 101;
  const uint64_t pinned_percent = random() % 3 == 0 ? random() % 101 : 0;
  for (uint64_t page = 0; page < scene.pages(); ++page) {
    if (random() % 4 != 0) scene.know(page, random_fields(random));
    if (random() % 100 >= resident_percent) continue;
    scene.put_in_dram(page);
    if (random() % 2 == 0) scene.dirty(page);
    if (random() % 100 < pinned_percent) scene.pin(page);
  }
  return scene;
}

Budget random_budget(std::mt19937_64& random, uint64_t pages) {
  Budget budget;
  budget.limit_pages = random() % (pages + 1);
  budget.high_pages = random() % (budget.limit_pages + 1);
  budget.low_pages = random() % (budget.high_pages + 1);
  budget.move_pages = random() % 3 == 0 ? random() % 4 : random() % (pages + 1);
  return budget;
}

// explain() of every page adds up to the plan.
void expect_explained(PolicyKind kind, const Plan& plan, const Scene& scene) {
  std::array<uint64_t, kVerdicts> counts{};
  for (uint64_t page = 0; page < scene.pages(); ++page) {
    ++counts[static_cast<size_t>(verdict_of(kind, plan, scene, page))];
  }
  const auto count = [&](Verdict verdict) { return counts[static_cast<size_t>(verdict)]; };
  EXPECT_EQ(count(Verdict::kPromoted), plan.promoted);
  EXPECT_EQ(count(Verdict::kDemoted) + count(Verdict::kForced), plan.demoted);
  for (size_t i = 0; i < kVerdicts; ++i) {
    if (!is_refusal(static_cast<Verdict>(i))) continue;
    EXPECT_EQ(counts.at(i), plan.refused.at(i)) << i;
  }
}

TEST(PolicyPropertyTest, EveryPlanKeepsTheRulesAndExplainsItself) {
  std::mt19937_64 random(20);
  for (int round = 0; round < 400; ++round) {
    Scene scene = random_scene(random);
    const Budget budget = random_budget(random, scene.pages());
    for (const PolicyKind kind : kAllPolicies) {
      const Plan plan = make_plan(kind, budget, scene.snapshot());
      const auto cooling = [&](PageIndex page) { return scene.record(page.value).cool_down() > 0; };
      ASSERT_EQ(check_plan(kind, budget, scene.snapshot(), plan, cooling), "")
          << policy_name(kind) << ", round " << round;
      expect_explained(kind, plan, scene);
      const Plan again = make_plan(kind, budget, scene.snapshot());
      EXPECT_EQ(plan.promotions, again.promotions);
      EXPECT_EQ(plan.demotions, again.demotions);
    }
  }
}

Plan plan_of(std::vector<PageRun> promotions, std::vector<PageRun> demotions) {
  Plan plan;
  for (const PageRun& run : promotions) plan.promoted += run.count;
  for (const PageRun& run : demotions) plan.demoted += run.count;
  plan.promotions = std::move(promotions);
  plan.demotions = std::move(demotions);
  return plan;
}

TEST(PlanCheckTest, FindsWhatIsWrong) {
  Scene scene(1);
  scene.put_in_dram(1);
  scene.put_in_dram(2);
  scene.pin(2);
  for (const uint64_t page : {5U, 6U}) scene.know(page, kHot);
  scene.know(7, kCold);
  // Room for no page more, one move; page 6 is cooling down.
  const auto fault = [&](const Plan& plan) {
    const Budget budget = {.limit_pages = 2, .high_pages = 2, .low_pages = 2, .move_pages = 1};
    return check_plan(PolicyKind::kHeat, budget, scene.snapshot(), plan,
                      [](PageIndex page) { return page.value == 6; })
        .substr(0, 2);
  };
  const PageRun resident = {PageIndex(1), 1};
  const PageRun pinned = {PageIndex(2), 1};
  const PageRun hot = {PageIndex(5), 1};
  const PageRun cooling = {PageIndex(6), 1};
  const PageRun idle = {PageIndex(7), 1};
  EXPECT_EQ(fault({}), "");
  EXPECT_EQ(fault(plan_of({}, {resident})), "");
  EXPECT_EQ(fault(plan_of({hot}, {})), "P1");
  EXPECT_EQ(fault(plan_of({hot}, {resident})), "P2");
  EXPECT_EQ(fault(plan_of({cooling}, {})), "P3");
  EXPECT_EQ(fault(plan_of({resident}, {})), "P4");
  EXPECT_EQ(fault(plan_of({}, {pinned})), "P4");
  EXPECT_EQ(fault(plan_of({}, {resident, resident})), "P4");
  EXPECT_EQ(fault(plan_of({}, {{PageIndex(512), 1}})), "P4");
  EXPECT_EQ(fault(plan_of({idle}, {})), "P5");
  Plan miscounted = plan_of({}, {resident});
  miscounted.demoted = 0;
  EXPECT_EQ(fault(miscounted), "th");
}

TEST(PolicyParametersTest, AreValidAsAWholeOrNotAtAll) {
  constexpr uint64_t kSize = pcow::kGiB;
  const PolicyParameters good{.kind = PolicyKind::kHeat, .dram_size = kSize / 4};
  EXPECT_TRUE(check_parameters(good, kSize));
  EXPECT_TRUE(check_parameters({}, kSize));
  const auto refused = [&](const auto& change) {
    PolicyParameters bad = good;
    change(bad);
    const auto checked = check_parameters(bad, kSize);
    return !checked && checked.error().code == pcow::Code::kInvalid;
  };
  EXPECT_TRUE(refused([](PolicyParameters& p) { p.dram_size = kSize + pcow::kPageSize; }));
  EXPECT_TRUE(refused([](PolicyParameters& p) { p.dram_size = 5000; }));
  EXPECT_TRUE(refused([](PolicyParameters& p) { p.high_percent = 101; }));
  EXPECT_TRUE(refused([](PolicyParameters& p) { p.low_percent = 96; }));
  EXPECT_TRUE(refused([](PolicyParameters& p) { p.low_percent = 0; }));
  EXPECT_TRUE(refused([](PolicyParameters& p) { p.migrate_rate = 100; }));
}

TEST(PolicyParametersTest, MakeABudget) {
  PolicyParameters parameters{.dram_size = 1000 * pcow::kPageSize,
                              .high_percent = 95,
                              .low_percent = 80,
                              .migrate_rate = 1000 * pcow::kPageSize};
  const Budget budget = budget_of(parameters, pcow::kGiB, 7);
  EXPECT_EQ(budget.limit_pages, 1000U);
  EXPECT_EQ(budget.high_pages, 950U);
  EXPECT_EQ(budget.low_pages, 800U);
  EXPECT_EQ(budget.move_pages, 7U);
  EXPECT_DOUBLE_EQ(moves_in(parameters, std::chrono::milliseconds(100)), 100);
  EXPECT_DOUBLE_EQ(moves_in(parameters, std::chrono::hours(10000)), double{kMovesMax});
  parameters.dram_size = 0;
  const Budget unlimited = budget_of(parameters, pcow::kGiB, 7);
  EXPECT_EQ(unlimited.low_pages, pcow::kPagesPerSegment);
  EXPECT_EQ(unlimited.limit_pages, pcow::kPagesPerSegment);
}

}  // namespace
}  // namespace tiering
