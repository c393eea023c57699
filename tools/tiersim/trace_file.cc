// SPDX-License-Identifier: BSD-3-Clause
#include <pcow/units.h>
#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <ios>
#include <optional>

#include "tools/common/failure.h"
#include "tools/tiersim/trace.h"

namespace tiersim {
namespace {

constexpr uint64_t kPagesMax = kFootprintMax / pcow::kPageSize - 1;
constexpr uint64_t kEpochsMax = 1'000'000;
constexpr uint64_t kCountMax = uint64_t{1} << 32;
constexpr const char* kBlanks = " \t\n\v\f\r";

struct Record {
  uint64_t epoch = 0;
  Access access;
};

class RecordedTrace : public TraceSource {
 public:
  void add(const Record& record) {
    epochs_.resize(record.epoch + 1);
    epochs_.back().push_back(record.access);
    pages_ = std::max(pages_, record.access.page + 1);
  }

  uint64_t pages() const override { return pages_; }
  uint64_t epochs() const override { return epochs_.size(); }
  const std::vector<Access>& next() override { return epochs_.at(at_++); }

 private:
  std::vector<std::vector<Access>> epochs_;
  uint64_t pages_ = 0;
  size_t at_ = 0;
};

std::optional<uint64_t> number(const std::string& word, uint64_t most, int base = 10) {
  uint64_t value = 0;
  const char* end = word.data() + word.size();
  const auto [rest, error] = std::from_chars(word.data(), end, value, base);
  if (error != std::errc() || rest != end || value > most) return std::nullopt;
  return value;
}

// As many lines as there are accesses, from the first.
uint64_t first_lines(uint64_t count) {
  return count >= 64 ? UINT64_MAX : (uint64_t{1} << count) - 1;
}

// Not by a stream, which ends where memory does.
std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  size_t end = 0;
  for (size_t at = 0; (at = line.find_first_not_of(kBlanks, end)) != std::string::npos;) {
    end = std::min(line.find_first_of(kBlanks, at), line.size());
    words.push_back(line.substr(at, end - at));
  }
  return words;
}

// What is wrong with a line goes into `wrong`.
std::optional<Record> parse_line(const std::string& line, std::string& wrong) {
  const std::vector<std::string> words = words_of(line);
  if (words.size() < 4 || words.size() > 5) {
    wrong = "expecting EPOCH r|w PAGE COUNT [LINES]";
    return std::nullopt;
  }
  const auto epoch = number(words[0], kEpochsMax);
  const auto page = number(words[2], kPagesMax);
  const auto count = number(words[3], kCountMax);
  if (!epoch) wrong = "'" + words[0] + "' is not an epoch";
  if (words[1] != "r" && words[1] != "w") wrong = "'" + words[1] + "' is neither 'r' nor 'w'";
  if (!page) wrong = "'" + words[2] + "' is not a page number";
  if (!count || *count == 0) wrong = "'" + words[3] + "' is not a count of accesses";
  if (!wrong.empty()) return std::nullopt;
  const auto lines = words.size() == 4 ? first_lines(*count) : number(words[4], UINT64_MAX, 16);
  if (!lines || *lines == 0 || static_cast<uint64_t>(std::popcount(*lines)) > *count) {
    wrong = "'" + words[4] + "' is not a hexadecimal mask of 1 to " + words[3] + " lines";
    return std::nullopt;
  }
  return Record{*epoch, {*page, *count, *lines, words[1] == "w"}};
}

std::unique_ptr<TraceSource> read_lines(std::ifstream& file, const std::string& path) {
  auto trace = std::make_unique<RecordedTrace>();
  std::string line;
  for (uint64_t number = 1; std::getline(file, line); ++number) {
    const size_t start = line.find_first_not_of(" \t\r");
    if (start == std::string::npos || line[start] == '#') continue;
    std::string wrong;
    const std::optional<Record> record = parse_line(line, wrong);
    if (record && record->epoch + 1 < trace->epochs()) wrong = "epochs must ascend";
    if (!wrong.empty()) {
      throw tools::Failure("trace '" + path + "', line " + std::to_string(number) + ": " + wrong);
    }
    trace->add(*record);
  }
  if (trace->epochs() == 0) throw tools::Failure("the trace '" + path + "' has no accesses");
  return trace;
}

}  // namespace

std::unique_ptr<TraceSource> read_trace(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    throw tools::Failure("cannot open the trace '" + path + "': " + std::strerror(errno));
  }
  // A line that cannot be read must not look like the end of the trace.
  file.exceptions(std::ios::badbit);
  try {
    return read_lines(file, path);
  } catch (const std::ios_base::failure&) {
    throw tools::Failure("cannot read the trace '" + path + "'");
  }
}

}  // namespace tiersim
