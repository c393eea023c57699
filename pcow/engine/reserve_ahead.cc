// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/reserve_ahead.h"

#include <algorithm>

namespace pcow {
namespace {

// Owned pages from which on a window is expected to be filled: below that, space for it would
// mostly be given back unused.
constexpr uint64_t kDensePages = 16;
// From here on the next window is expected to follow.
constexpr uint64_t kNearlyFullPages = kPagesPerChunk * 3 / 4;
// What was not used, or could not be made, for so many turns makes room for other windows.
constexpr uint64_t kIdleTurns = 64;
constexpr size_t kWantedMax = 256;
constexpr uint64_t kPagesPerJob = DirectSpace::kPieceSize / kPageSize;

constexpr uint64_t window_of(uint64_t place) { return place / kWindowSize * kWindowSize; }
constexpr uint64_t page_of(uint64_t place) { return place % kWindowSize / kPageSize; }

// Calls fn(first page, count) for runs of set pages, each of at most `longest`.
template <typename Fn>
void for_each_run(const PageMap& pages, uint64_t longest, const Fn& fn) {
  for (uint64_t page = 0; page < kPagesPerChunk;) {
    uint64_t end = page;
    while (end < kPagesPerChunk && pages[end] && end - page < longest) ++end;
    if (end > page) fn(page, end - page);
    page = std::max(end, page + 1);
  }
}

}  // namespace

void ReserveAhead::pause() {
  for (const SpaceWorker::Job& job : worker_.stop()) {
    const auto window = windows_.find(window_of(job.offset));
    for (uint64_t at = job.offset; at < job.offset + job.length; at += kPageSize) {
      if (window->second.ready[page_of(at)] == !job.release) continue;
      window->second.ready[page_of(at)] = !job.release;
      job.release ? --ready_pages_ : ++ready_pages_;
    }
    if (!job.release) window->second.turn = turn_;
  }
}

std::vector<ReserveAhead::Range> ReserveAhead::take(const std::vector<Range>& ranges) {
  std::vector<Range> missing;
  for (const auto& [offset, length] : ranges) {
    for (uint64_t at = offset; at < offset + length; at += kPageSize) {
      const auto window = windows_.find(window_of(at));
      if (window != windows_.end() && window->second.ready[page_of(at)]) {
        window->second.ready[page_of(at)] = false;
        window->second.turn = turn_;
        --ready_pages_;
        ++used_pages_;
        continue;
      }
      ++missed_pages_;
      if (!missing.empty() && missing.back().first + missing.back().second == at) {
        missing.back().second += kPageSize;
      } else {
        missing.emplace_back(at, kPageSize);
      }
    }
  }
  return missing;
}

void ReserveAhead::forget(uint64_t offset, uint64_t length) {
  for (auto window = windows_.lower_bound(window_of(offset));
       window != windows_.end() && window->first < offset + length; ++window) {
    const uint64_t from = std::max(offset, window->first);
    const uint64_t to = std::min(offset + length, window->first + kWindowSize);
    for (uint64_t at = from; at < to; at += kPageSize) {
      if (!window->second.ready[page_of(at)]) continue;
      window->second.ready[page_of(at)] = false;
      --ready_pages_;
    }
  }
}

void ReserveAhead::want(ChunkIndex chunk) {
  std::erase_if(wanted_, [&](const Wanted& other) { return other.chunk == chunk; });
  wanted_.insert(wanted_.begin(), Wanted{chunk, turn_});
}

// What the writes since the last turn let expect. Behind windows that are nearly full as many more
// are wanted as were touched: so fast the writer is.
void ReserveAhead::choose(const Views& views, ChunkIndex end) {
  std::sort(touched_.begin(), touched_.end());
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  for (const ChunkIndex chunk : touched_) {
    const std::optional<View> view = views(chunk);
    if (!view) continue;
    const uint64_t owned = view->owned.count();
    if (owned >= kNearlyFullPages) {
      const uint64_t in_gib = kChunksPerSegment - 1 - chunk_in_segment(chunk);
      const uint64_t behind = std::min({touched_.size(), in_gib, end - chunk - 1, kWantedMax});
      for (uint64_t i = behind; i > 0; --i) want(chunk + i);  // the next one before others
    }
    if (owned >= kDensePages && owned < kPagesPerChunk) want(chunk);
  }
  touched_.clear();
  if (wanted_.size() > kWantedMax) wanted_.resize(kWantedMax);
}

// Returns how many pages the window gets; `room` is what it may get.
uint64_t ReserveAhead::add_fill_jobs(const View& view, const Window& window, uint64_t room,
                                     Jobs& jobs) const {
  uint64_t added = 0;
  for_each_run(~view.owned & ~window.ready, kPagesPerJob, [&](uint64_t page, uint64_t count) {
    const uint64_t pages = std::min(count, room - added);
    if (pages == 0) return;
    jobs.push_back({view.window + page * kPageSize, pages * kPageSize, false});
    added += pages;
  });
  return added;
}

void ReserveAhead::add_release_jobs(const Views& views, Jobs& jobs) const {
  for (const auto& [place, window] : windows_) {
    if (window.turn + kIdleTurns > turn_ || window.ready.none()) continue;
    const std::optional<View> view = views(window.chunk);
    if (!view || view->window != place) continue;
    for_each_run(window.ready & ~view->owned, kPagesPerChunk, [&](uint64_t page, uint64_t count) {
      jobs.push_back({view->window + page * kPageSize, count * kPageSize, true});
    });
  }
}

void ReserveAhead::resume(const Views& views, ChunkIndex end) {
  if (worker_.failed()) return;
  ++turn_;
  choose(views, end);
  std::erase_if(windows_, [](const auto& window) { return window.second.ready.none(); });
  Jobs jobs;
  uint64_t room = pages_max_ - ready_pages_;
  const auto is_done = [&](const Wanted& wanted) {
    const std::optional<View> view = views(wanted.chunk);
    if (!view || wanted.turn + kIdleTurns < turn_) return true;
    const auto known = windows_.find(view->window);
    const PageMap ready = known == windows_.end() ? PageMap() : known->second.ready;
    if ((~view->owned & ~ready).none()) return true;
    if (room == 0) return false;
    Window& window =
        windows_.try_emplace(view->window, Window{wanted.chunk, {}, turn_}).first->second;
    room -= add_fill_jobs(*view, window, room, jobs);
    return false;
  };
  std::erase_if(wanted_, is_done);
  if (room == 0) add_release_jobs(views, jobs);
  worker_.start(std::move(jobs));
}

bool ReserveAhead::give_back(const Views& views, const ImageFile& file) {
  pause();
  const bool any = ready_pages_ > 0;
  for (const auto& [place, window] : windows_) {
    if (window.ready.none()) continue;
    const std::optional<View> view = views(window.chunk);
    if (!view || view->window != place) continue;
    for_each_run(window.ready & ~view->owned, kPagesPerChunk, [&](uint64_t page, uint64_t count) {
      (void)file.punch(view->window + page * kPageSize, count * kPageSize);
    });
  }
  windows_.clear();
  wanted_.clear();
  touched_.clear();
  ready_pages_ = 0;
  return any;
}

AheadInfo ReserveAhead::info() const {
  const SpaceWorker::Progress progress = worker_.progress();
  return {ready_pages_ * kPageSize + progress.filled_bytes - progress.released_bytes, used_pages_,
          missed_pages_, progress.busy};
}

}  // namespace pcow
