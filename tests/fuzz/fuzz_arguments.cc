// SPDX-License-Identifier: BSD-3-Clause
//
// Any command line: the input is its words, one a line, to options and to the words of create; and
// any text as a size.
#include <pcow/image.h>
#include <cstdio>
#include <sstream>

#include "tests/fuzz/fuzz.h"
#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/pcow-img/create_request.h"

using fuzz::require;

namespace {

void parse_options(const std::vector<std::string>& words) {
  bool flag = false;
  tools::Output output = tools::Output::kHuman;
  std::string value;
  std::string file;
  std::vector<std::string> extra;
  tools::Arguments arguments("fuzz verb", "Does nothing.");
  arguments.flag("-q,--quiet", &flag, "A flag");
  arguments.value("-s,--size", &value, "A value");
  arguments.output(&output);
  arguments.positional("FILE", &file, "A word", "expecting a word");
  arguments.extra_words(&extra);
  try {
    arguments.parse(words);
  } catch (const tools::UsageError&) {  // what a wrong command line is to end with
  }
}

void parse_create(const std::vector<std::string>& words) {
  try {
    pcow_img::parse_create_words(words);
  } catch (const tools::UsageError&) {
  }
}

void parse_size(const std::string& text) {
  const auto size = pcow::parse_size(text);
  if (!size) {
    require(size.error().code == pcow::Code::kInvalid, "a text that is no size is invalid");
    return;
  }
  require(*size <= INT64_MAX, "a size fits into an offset");
  require(pcow::parse_size(std::to_string(*size)) == *size, "a number of bytes is a size");
  require(!pcow::format_size(*size).empty(), "a size has a text");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // --help prints.
  [[maybe_unused]] static const FILE* const kSilent = std::freopen("/dev/null", "w", stdout);
  std::vector<std::string> words;
  std::istringstream text(std::string(reinterpret_cast<const char*>(data), size));
  for (std::string word; std::getline(text, word);) words.push_back(word);
  parse_options(words);
  parse_create(words);
  for (const std::string& word : words) parse_size(word);
  return 0;
}
