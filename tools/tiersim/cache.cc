// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tiersim/cache.h"

#include <pcow/units.h>
#include <algorithm>

#include "tools/tiersim/random.h"

namespace tiersim {

Cache::Cache(uint64_t bytes) {
  constexpr uint64_t kSetSize = kWays * pcow::kLineSize;
  sets_.resize(pcow::round_up(bytes, kSetSize) / kSetSize);
}

bool Cache::access(uint64_t line, bool write, uint64_t& written_back) {
  auto& set = sets_[mix(line) % sets_.size()];
  auto at = std::ranges::find(set, line, &Slot::line);
  const bool miss = at == set.end();
  if (miss) --at;  // the least recently used one
  const bool writes_back = miss && at->dirty;
  if (writes_back) written_back = at->line;
  const bool dirty = write || (!miss && at->dirty);
  std::move_backward(set.begin(), at, at + 1);
  set.front() = {line, dirty};
  return writes_back;
}

}  // namespace tiersim
