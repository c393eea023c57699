// SPDX-License-Identifier: BSD-3-Clause
//
// Space ahead of need: which pages of which windows are to have space before they are first
// written, and which have it. SpaceWorker makes it, between the calls of the image.
//
//   pause() ─► take(), note() ... ─► resume()        every call that changes the image
//
// What it expects: a window in which scattered pages were written gets more of them, and behind
// windows that are filled come the next of their GiB. What it does not see coming is reserved by
// the writer itself, as without it.
//
// Invariants
//  1. The thread gets pages that the active layer does not own at resume(), and nothing else; these
//     hold zeros, or what trimming is about to make zeros, so zeros and holes do no harm there.
//  2. Ownership changes in transactions only, and each begins by pause(), which drops what was not
//     done (ImageImpl::commit_transaction, log_step, commit_step). So the thread never touches a
//     page that is owned, and data is stored in owned pages only.
//  3. `ready` is a hint. It tells that a page need not be reserved again; that a page is owned is
//     looked up whenever space is given back.
//  4. At most `bytes_max` that nobody owns are reserved at any time.
#pragma once

#include <pcow/image.h>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "pcow/engine/space_worker.h"
#include "pcow/media/image_file.h"

namespace pcow {

class ReserveAhead {
 public:
  using Range = std::pair<uint64_t, uint64_t>;  // file offset, length
  // The active layer's own window of a chunk, and which of its pages it owns.
  struct View {
    uint64_t window;
    PageMap owned;
  };
  using Views = std::function<std::optional<View>(ChunkIndex)>;

  ReserveAhead(DirectSpace space, uint64_t bytes_max)
      : worker_(std::move(space)), pages_max_(bytes_max / kPageSize) {}

  // The thread does nothing from now on.
  void pause();
  // Pages are about to be written: returns those that have to be reserved. REQUIRES: paused.
  std::vector<Range> take(const std::vector<Range>& ranges);
  // These places become holes. REQUIRES: paused.
  void forget(uint64_t offset, uint64_t length);
  // Pages of a chunk became owned.
  void note(ChunkIndex chunk) { touched_.push_back(chunk); }
  // A call is over: the thread goes on. Up to `end` the image has chunks. REQUIRES: paused.
  void resume(const Views& views, ChunkIndex end);
  // Gives back all that is reserved and not owned, and forgets what was expected. Returns whether
  // there was any. What the medium refuses to take back stays as zeros that nobody owns.
  bool give_back(const Views& views, const ImageFile& file);
  AheadInfo info() const;

 private:
  struct Window {
    ChunkIndex chunk;
    PageMap ready;
    uint64_t turn = 0;  // when it was last made or used
  };
  // A chunk whose window is to be ready.
  struct Wanted {
    ChunkIndex chunk;
    uint64_t turn;  // since when
  };
  using Jobs = std::vector<SpaceWorker::Job>;

  void want(ChunkIndex chunk);
  void choose(const Views& views, ChunkIndex end);
  uint64_t add_fill_jobs(const View& view, const Window& window, uint64_t room, Jobs& jobs) const;
  void add_release_jobs(const Views& views, Jobs& jobs) const;

  SpaceWorker worker_;
  const uint64_t pages_max_;
  std::map<uint64_t, Window> windows_;  // by place
  std::vector<ChunkIndex> touched_;     // since the last turn
  std::vector<Wanted> wanted_;          // newest first
  uint64_t turn_ = 0;                   // counts resume()
  uint64_t ready_pages_ = 0;            // of windows_
  uint64_t used_pages_ = 0;
  uint64_t missed_pages_ = 0;
};

}  // namespace pcow
