// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/policy/policy.h"

#include <algorithm>

#include "tiering/policy/planner.h"
#include "tiering/policy/ranking.h"

namespace tiering {

const char* policy_name(PolicyKind kind) {
  switch (kind) {
    case PolicyKind::kOff:
      return "off";
    case PolicyKind::kStatic:
      return "static";
    case PolicyKind::kAge:
      return "age";
    case PolicyKind::kHeat:
      return "heat";
    case PolicyKind::kCmq:
      return "cmq";
  }
  return "";
}

std::optional<PolicyKind> policy_by_name(std::string_view name) {
  for (const PolicyKind kind : kAllPolicies) {
    if (name == policy_name(kind)) return kind;
  }
  return std::nullopt;
}

const Ranking* ranking_of(PolicyKind kind) {
  switch (kind) {
    case PolicyKind::kOff:
    case PolicyKind::kStatic:
      return nullptr;
    case PolicyKind::kAge:
      return &kAgeRanking;
    case PolicyKind::kHeat:
      return &kHeatRanking;
    case PolicyKind::kCmq:
      return &kCmqRanking;
  }
  return nullptr;
}

const char* verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kBelongs:
      return "belongs";
    case Verdict::kPolicyStill:
      return "policy-still";
    case Verdict::kPromoted:
      return "promoted";
    case Verdict::kDemoted:
      return "demoted";
    case Verdict::kForced:
      return "forced";
    case Verdict::kCoolDown:
      return "cool-down";
    case Verdict::kPinned:
      return "pinned";
    case Verdict::kRate:
      return "rate";
    case Verdict::kNoColderPage:
      return "no-colder-page";
  }
  return "";
}

Plan make_plan(PolicyKind kind, const Budget& budget, Snapshot snapshot) {
  const Ranking* ranking = ranking_of(kind);
  return ranking == nullptr ? Plan{} : plan_by_rank(*ranking, budget, snapshot);
}

Explanation explain(PolicyKind kind, const Plan& plan, Snapshot snapshot, pcow::PageIndex page) {
  const Ranking* ranking = ranking_of(kind);
  Explanation result;
  if (ranking == nullptr) result.verdict = Verdict::kPolicyStill;
  const auto chunk = std::ranges::lower_bound(snapshot, pcow::chunk_of(page), {},
                                              [](const ChunkView& c) { return c.in_dram.chunk; });
  if (chunk == snapshot.end() || chunk->in_dram.chunk != pcow::chunk_of(page)) return result;
  const uint64_t index = pcow::page_in_chunk(page);
  result.in_dram = chunk->in_dram.resident[index];
  result.record = chunk->record(index);
  if (ranking == nullptr) return result;
  result.score = ranking->score(result.record);
  result.verdict = judge(*ranking, plan.cuts, *chunk, index);
  return result;
}

}  // namespace tiering
