// SPDX-License-Identifier: BSD-3-Clause
//
// Deliberately broken variants: what the medium would have seen of an engine with a mistake in it.
// Each must be found, or the explorer proves nothing.
#pragma once

#include <vector>

#include "tests/crash/trace.h"

namespace crash {

struct Break {
  const char* name;
  const char* what;
  // Either may be absent.
  void (*change_trace)(std::vector<Event>& events) = nullptr;  // a broken writer
  void (*change_state)(SparseBytes& state) = nullptr;          // a broken reader
};

// Of epochs (epoch_breaks.cc); part of breaks().
const std::vector<Break>& epoch_breaks();

const std::vector<Break>& breaks();

}  // namespace crash
