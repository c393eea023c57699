// SPDX-License-Identifier: BSD-3-Clause
//
// From a ranking of pages to a plan, the same way for every policy that moves pages.
#pragma once

#include "tiering/policy/ranking.h"

namespace tiering {

// As make_plan().
Plan plan_by_rank(const Ranking& ranking, const Budget& budget, Snapshot snapshot);

// What the plan does with one page of a chunk.
Verdict judge(const Ranking& ranking, const Cuts& cuts, const ChunkView& chunk,
              uint64_t page_in_chunk);

}  // namespace tiering
