// SPDX-License-Identifier: BSD-3-Clause
//
// The command line of one verb. The only file that sees the parser library is arguments.cc.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace tools {

enum class Output { kHuman, kJson };

class Arguments {
 public:
  // `verb` is the whole name, "pcow-img info"; `summary` is printed by --help.
  Arguments(const std::string& verb, const std::string& summary);
  ~Arguments();
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // Options, by their names as typed ("-q,--quiet"). The targets must outlive parse() and keep
  // their value when the option is absent. A value may not be given twice, nor be empty, unless
  // that means something.
  void flag(const std::string& names, bool* target, const std::string& help);
  void value(const std::string& names, std::string* target, const std::string& help);
  void value_or_empty(const std::string& names, std::string* target, const std::string& help);
  // A value that may be given several times; each is added.
  void values(const std::string& names, std::vector<std::string>* target, const std::string& help);
  // --output human|json.
  void output(Output* target);
  // The next word that is not an option, and not empty. `missing` is the message when it is not
  // there; without one the word is optional.
  void positional(const std::string& name, std::string* target, const std::string& help,
                  const std::string& missing = "");
  // Words after the last positional; without this call they are refused.
  void extra_words(std::vector<std::string>* target);

  // Returns false when --help was asked for, and printed. Throws UsageError.
  bool parse(const std::vector<std::string>& args);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tools
