// SPDX-License-Identifier: BSD-3-Clause
//
// How the templates are made: by the engine, which closes the image, leaves it like a crash, or is
// stopped half-way by a system call that fails.
#pragma once

#include <pcow/units.h>
#include <string>
#include <vector>

namespace fuzz {

// The log is scanned whole, so the smallest one makes the most executions a second.
inline constexpr uint64_t kTemplateLogSize = 4 * pcow::kMiB;

struct Recipe {
  const char* name;
  void (*make)(const std::string& path);
  uint64_t files = 1;  // of a stripe set
  uint64_t unit = 0;   // bytes
};

// The other files of a set are called so, beside the first.
std::string member_name(size_t index);
std::string member_path(const std::string& image, size_t index);

// Inputs name templates by number: new ones go to the end.
const std::vector<Recipe>& recipes();

}  // namespace fuzz
