// SPDX-License-Identifier: BSD-3-Clause
//
// Errors. Every fallible function returns Result<T>; no exception leaves the libraries, and memory
// that runs out is an error, too.
//
// An Error is written for the person who typed the command: what is wrong, with which file, option
// or value, and what to do about it. `code` is for programs; `sys_errno` is what the kernel said.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace pcow {

enum class Code {
  kInvalid,        // an option or argument is wrong
  kNotFound,       // the file does not exist
  kPermission,     // the file system or the kernel does not permit it
  kBusy,           // in use by another process
  kNoSpace,        // the medium is full; nothing was lost
  kIo,             // the medium reported an error
  kCorrupt,        // the image is damaged
  kForeign,        // the file is not a pcow image
  kUnsupported,    // a newer format, or something this version cannot honour
  kExists,         // the file to create exists
  kNeedsRecovery,  // not closed cleanly; a writable open recovers it
  kNoMemory,       // memory, address space or kernel mappings exhausted
  kInternal,       // a defect in this program
  kLogFull,        // the epoch under way does not fit in the log; commit it, and go on
};

// Stable lower-case name, as printed in JSON output ("no-space").
std::string_view code_name(Code code);

struct [[nodiscard]] Error {
  Code code = Code::kInternal;
  int sys_errno = 0;
  std::string message;
};

template <typename T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using Base = tl::expected<T, Error>;
  using Base::Base;
  Result(Error error) : Base(tl::unexpect, std::move(error)) {}  // NOLINT: implicit by intent
};

// An error without errno. `message` is complete: file, what is wrong, remedy.
Error make_error(Code code, std::string message);

// An error from errno: the code is derived from `sys_errno` (ENOENT → kNotFound, ENOSPC/EDQUOT →
// kNoSpace, …) and the message becomes "WHAT: strerror; REMEDY", the remedy being the usual one
// for that code. `what` names operation and file: "cannot open 'vm.pcow'".
Error errno_error(int sys_errno, std::string_view what);

}  // namespace pcow

// Returns early with the error of a Result expression; for Result<void> and "don't need the value".
#define PCOW_TRY(expr)                                     \
  do {                                                     \
    if (auto pcow_try_result = (expr); !pcow_try_result) { \
      return std::move(pcow_try_result).error();           \
    }                                                      \
  } while (false)

// PCOW_TRY_ASSIGN(auto fd, open_file(path)): declares or assigns on success, returns the error
// otherwise.
#define PCOW_TRY_CONCAT_(a, b) a##b
#define PCOW_TRY_NAME_(line) PCOW_TRY_CONCAT_(pcow_try_value_, line)
#define PCOW_TRY_ASSIGN(lhs, expr)                                                   \
  auto PCOW_TRY_NAME_(__LINE__) = (expr);                                            \
  if (!PCOW_TRY_NAME_(__LINE__)) return std::move(PCOW_TRY_NAME_(__LINE__)).error(); \
  lhs = *std::move(PCOW_TRY_NAME_(__LINE__))
