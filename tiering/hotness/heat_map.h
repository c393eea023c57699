// SPDX-License-Identifier: BSD-3-Clause
//
// The heat of a region in a few cells, for people and programs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tiering/hotness/heat_tracker.h"

namespace tiering {

struct HeatCell {
  uint64_t known_pages = 0;  // pages with a record
  uint64_t heat_sum = 0;     // of their heats, each up to PageRecord::kHeatMax
  uint32_t heat_max = 0;
};

struct HeatMap {
  uint64_t epochs = 0;           // since tracking began
  uint64_t chunks = 0;           // of the region
  uint64_t chunks_per_cell = 0;  // the last cell may have fewer
  std::vector<HeatCell> cells;   // ascending
};

// At most `cells` of them, gathered in parallel. REQUIRES: cells > 0. Throws std::bad_alloc.
HeatMap heat_map(const HeatTracker::Frozen& frozen, uint64_t cells);

// One line of JSON:
// {"epochs":…,"chunk-size":2097152,"chunks":…,"chunks-per-cell":…,"heat-max":4095,
// "cells":[{"cell":0,"pages":…,"heat-mean":…,"heat-max":…},…]}. Cells without known pages are left
// out; heat-mean is over the known pages, rounded down.
std::string heat_map_json(const HeatMap& map);

// A character a cell, 64 a line, each line led by its offset in the region in hexadecimal: '.'
// nothing known, '0' to '9' the hottest page of the cell in tenths of the maximum.
std::string heat_map_text(const HeatMap& map);

}  // namespace tiering
