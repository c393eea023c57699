// SPDX-License-Identifier: BSD-3-Clause
//
// What a benchmark found: rows, printed as a table or as one JSON object each, then a RESULT line.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace bench {

struct Row {
  std::string name;
  double value = 0;
  std::string unit;
  std::string peer = {};  // what it is compared with; empty: nothing, the bound is on the value
  std::optional<double> peer_value = {};
  std::optional<double> ratio = {};  // median of value / peer over the pairs
  std::optional<double> bound = {};  // upper bound of the ratio, or of the value without a peer
  std::string note = {};

  bool ok() const { return !bound || ratio.value_or(value) <= *bound; }
};

class Report {
 public:
  // `mode`: native, tcg, lab or modelled; goes into every row.
  Report(std::string mode, bool json) : mode_(std::move(mode)), json_(json) {}

  void add(Row row);
  // Prints the table, unless rows were printed as JSON, and the RESULT line. Returns the exit
  // status: 1 when a bound was missed.
  int finish(unsigned long seed) const;

 private:
  std::string mode_;
  bool json_;
  std::vector<Row> rows_;
};

}  // namespace bench
