// SPDX-License-Identifier: BSD-3-Clause
//
// Every operation of the engine, on images that make it do all that it can have to do.
#pragma once

#include <pcow/image.h>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/pcow/fault_world.h"

namespace test {

struct Session {
  FaultWorld& world;
  std::unique_ptr<pcow::Image> image;
};

struct Operation {
  std::string name;
  // Makes the files to begin with; returns what 'vm.pcow' shows.
  std::function<Shown(FaultWorld&)> start;
  // Without faults. What it changes, it changes in `shown` as well.
  std::function<void(Session&, Shown& shown)> setup;
  std::function<pcow::Result<void>(Session&)> run;
  std::function<void(Shown& shown)> effect = [](Shown&) {};
  // What a crash may leave after a failure.
  Allowed failed = Allowed::kEither;
  // Whether what it did is there without a commit().
  bool durable = true;
};

const std::vector<Operation>& operations();

}  // namespace test
