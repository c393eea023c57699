// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tools/common/signal_hold.h"
#include "tools/pcow-img/writer.h"

namespace pcow_img {

struct TargetRequest {
  std::string file;
  std::string format;  // "pcow", "raw", or one that only qemu-img knows
  bool overwrite = false;
  std::vector<std::string> stripe = {};  // pcow only; as in pcow::CreateOptions
  uint64_t stripe_unit = 0;
};

// What a conversion makes. It exists under its name, and has the names of all its files, only once
// it is complete; what is not published leaves nothing behind. Errors are thrown as tools::Failure.
class Target {
 public:
  Target() = default;
  virtual ~Target() = default;
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  // To be called once. What it returns is to be gone before the target is. `size`: of what comes,
  // or 0 if that is not known yet.
  virtual std::unique_ptr<Writer> create(uint64_t size) = 0;
  // After the writer's finish().
  virtual void publish() = 0;
};

// Refuses a name that cannot be had, or names a file in use; creates nothing yet.
std::unique_ptr<Target> plan_target(const TargetRequest& request, const tools::SignalHold& hold);

}  // namespace pcow_img
