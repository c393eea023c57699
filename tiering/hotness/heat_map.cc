// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/hotness/heat_map.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

namespace tiering {
namespace {

using pcow::ChunkIndex;
using pcow::kChunkSize;
using pcow::kPagesPerChunk;

constexpr uint64_t kCellsPerLine = 64;
constexpr uint32_t kShades = 10;

void add_chunk(HeatCell& cell, const uint32_t* words) {
  for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
    const PageRecord record(words[i]);
    if (!record.known()) continue;
    ++cell.known_pages;
    cell.heat_sum += record.heat();
    cell.heat_max = std::max(cell.heat_max, record.heat());
  }
}

std::string member(const char* name, uint64_t value) {
  return "\"" + std::string(name) + "\":" + std::to_string(value);
}

char shade(const HeatCell& cell) {
  if (cell.known_pages == 0) return '.';
  return static_cast<char>('0' + cell.heat_max * kShades / (PageRecord::kHeatMax + 1));
}

}  // namespace

HeatMap heat_map(const HeatTracker::Frozen& frozen, uint64_t cells) {
  HeatMap map;
  map.epochs = frozen.epochs();
  map.chunks = frozen.chunks();
  map.chunks_per_cell = std::max<uint64_t>(1, pcow::round_up(map.chunks, cells) / cells);
  map.cells.resize(pcow::round_up(map.chunks, map.chunks_per_cell) / map.chunks_per_cell);
  frozen.parallel()(map.cells.size(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const uint64_t last = std::min(map.chunks, (i + 1) * map.chunks_per_cell);
      for (uint64_t chunk = i * map.chunks_per_cell; chunk < last; ++chunk) {
        const uint32_t* words = frozen.words(ChunkIndex(chunk));
        if (words != nullptr) add_chunk(map.cells[i], words);
      }
    }
  });
  return map;
}

std::string heat_map_json(const HeatMap& map) {
  std::string text = "{" + member("epochs", map.epochs) + "," + member("chunk-size", kChunkSize) +
                     "," + member("chunks", map.chunks) + "," +
                     member("chunks-per-cell", map.chunks_per_cell) + "," +
                     member("heat-max", PageRecord::kHeatMax) + ",\"cells\":[";
  const char* separator = "";
  for (size_t i = 0; i < map.cells.size(); ++i) {
    const HeatCell& cell = map.cells[i];
    if (cell.known_pages == 0) continue;
    text += separator;
    text += "{" + member("cell", i) + "," + member("pages", cell.known_pages) + "," +
            member("heat-mean", cell.heat_sum / cell.known_pages) + "," +
            member("heat-max", cell.heat_max) + "}";
    separator = ",";
  }
  return text + "]}\n";
}

std::string heat_map_text(const HeatMap& map) {
  std::string text;
  for (size_t i = 0; i < map.cells.size(); ++i) {
    if (i % kCellsPerLine == 0) {
      char offset[32];
      std::snprintf(offset, sizeof offset, "%s%012" PRIx64 " ", i == 0 ? "" : "\n",
                    i * map.chunks_per_cell * kChunkSize);
      text += offset;
    }
    text += shade(map.cells[i]);
  }
  return text + "\n";
}

}  // namespace tiering
