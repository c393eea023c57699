// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/arguments.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/common/failure.h"

namespace tools {

struct Arguments::Impl {
  struct Positional {
    CLI::Option* option;
    std::string missing;
  };

  Impl(const std::string& summary, const std::string& verb) : app(summary, verb) {}
  void sort_extras() const;
  void refuse_empty() const;
  void read_output() const;

  CLI::App app;
  std::string output_text;
  Output* output = nullptr;
  std::vector<Positional> positionals;
  std::vector<const CLI::Option*> not_empty;
  std::vector<std::string>* extra_words = nullptr;
};

Arguments::Arguments(const std::string& verb, const std::string& summary)
    : impl_(std::make_unique<Impl>(summary, verb)) {
  impl_->app.set_help_flag("-h,--help", "Print this help and exit");
  // Extras are refused in parse(), with one wording whatever the version of the parser.
  impl_->app.allow_extras();
}

Arguments::~Arguments() = default;

void Arguments::flag(const std::string& names, bool* target, const std::string& help) {
  impl_->app.add_flag(names, *target, help);
}

void Arguments::value(const std::string& names, std::string* target, const std::string& help) {
  impl_->not_empty.push_back(impl_->app.add_option(names, *target, help));
}

void Arguments::value_or_empty(const std::string& names, std::string* target,
                               const std::string& help) {
  impl_->app.add_option(names, *target, help);
}

void Arguments::values(const std::string& names, std::vector<std::string>* target,
                       const std::string& help) {
  impl_->not_empty.push_back(impl_->app.add_option(names, *target, help)->allow_extra_args(false));
}

void Arguments::output(Output* target) {
  impl_->output = target;
  value("--output", &impl_->output_text, "Output format: human (default) or json");
}

void Arguments::positional(const std::string& name, std::string* target, const std::string& help,
                           const std::string& missing) {
  CLI::Option* const option = impl_->app.add_option(name, *target, help);
  impl_->positionals.push_back({option, missing});
  impl_->not_empty.push_back(option);
}

void Arguments::extra_words(std::vector<std::string>* target) { impl_->extra_words = target; }

// What the parser could not place: unknown options, and words beyond the last positional.
void Arguments::Impl::sort_extras() const {
  for (const std::string& word : app.remaining()) {
    if (word == "--") continue;
    if (word.empty()) throw UsageError("an argument is empty");
    if (word.size() > 1 && word.front() == '-') throw UsageError("unknown option '" + word + "'");
    if (extra_words == nullptr) throw UsageError("unexpected argument '" + word + "'");
    extra_words->push_back(word);
  }
}

// Mostly a variable of a script that is not set.
void Arguments::Impl::refuse_empty() const {
  for (const CLI::Option* option : not_empty) {
    for (const std::string& word : option->results()) {
      if (word.empty()) throw UsageError(option->get_name(false, true) + " must not be empty");
    }
  }
}

void Arguments::Impl::read_output() const {
  if (output == nullptr || app.count("--output") == 0) return;
  if (output_text != "human" && output_text != "json") {
    throw UsageError("--output must be 'human' or 'json', not '" + output_text + "'");
  }
  *output = output_text == "json" ? Output::kJson : Output::kHuman;
}

bool Arguments::parse(const std::vector<std::string>& args) {
  CLI::App& app = impl_->app;
  try {
    app.parse(std::vector<std::string>(args.rbegin(), args.rend()));
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return false;
  } catch (const CLI::ArgumentMismatch& error) {
    // "--name: ..."; the wording of the rest depends on the version of the parser.
    const std::string text = error.what();
    throw UsageError(text.substr(0, text.find(':')) + " takes one value, and only once");
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  impl_->refuse_empty();
  impl_->sort_extras();
  impl_->read_output();
  for (const Impl::Positional& positional : impl_->positionals) {
    if (positional.option->count() == 0 && !positional.missing.empty()) {
      throw UsageError(positional.missing);
    }
  }
  return true;
}

}  // namespace tools
