// SPDX-License-Identifier: BSD-3-Clause
//
// How a command says that it failed: exceptions, used inside the tools only.
#pragma once

#include <pcow/status.h>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace tools {

inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;

// Ends the command with a message (complete, for the person who typed the command) and the exit
// code of its errors (Command::exit_of_error) unless it has another.
class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& message, std::optional<int> exit_code = std::nullopt)
      : std::runtime_error(message), exit_code_(exit_code) {}
  std::optional<int> exit_code() const { return exit_code_; }

 private:
  std::optional<int> exit_code_;
};

// The command line is wrong; the message is followed by a pointer to --help.
class UsageError : public Failure {
 public:
  explicit UsageError(const std::string& message) : Failure(message) {}
};

// The value of a Result, or its error as a Failure.
template <typename T>
T value_or_fail(pcow::Result<T> result) {
  if (!result) throw Failure(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

}  // namespace tools
