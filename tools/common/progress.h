// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>

namespace tools {

// Progress on stdout: one line that is rewritten on a terminal, a line every ten percent otherwise.
class Progress {
 public:
  // With enabled = false nothing is ever printed.
  explicit Progress(bool enabled);
  ~Progress();  // ends the line on a terminal
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(uint64_t done, uint64_t total);

 private:
  const bool enabled_;
  const bool terminal_;
  int64_t shown_ = -1;  // last step printed: hundredths of a percent, or tens of percent
};

}  // namespace tools
