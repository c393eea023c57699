// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/progress.h"

#include <unistd.h>

#include <cstdio>

namespace tools {

Progress::Progress(bool enabled) : enabled_(enabled), terminal_(isatty(STDOUT_FILENO) == 1) {}

Progress::~Progress() {
  if (enabled_ && terminal_ && shown_ >= 0) std::fputs("\n", stdout);
}

void Progress::update(uint64_t done, uint64_t total) {
  if (!enabled_) return;
  const double fraction =
      total == 0 || done >= total ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
  const auto step = static_cast<int64_t>(fraction * (terminal_ ? 10000 : 10));
  if (step <= shown_) return;
  shown_ = step;
  if (terminal_) {
    std::printf("    (%.2f/100%%)\r", static_cast<double>(step) / 100);
  } else {
    std::printf("%d%%\n", static_cast<int>(step * 10));
  }
  std::fflush(stdout);
}

}  // namespace tools
