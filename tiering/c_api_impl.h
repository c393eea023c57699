// SPDX-License-Identifier: BSD-3-Clause
//
// What the files of the C boundary share: the handle, errors translated, exceptions kept in.
#pragma once

#include <tiering/region.h>
#include <tiering/tiering.h>
#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "tiering/epoch_manager.h"
#include "tiering/guarded_region.h"
#include "tiering/migration.h"

struct tiering_region {
  std::string path;                    // of the image
  std::unique_ptr<pcow::Image> image;  // null after shutdown
  std::unique_ptr<tiering::Region> region;
  std::unique_ptr<tiering::GuardedRegion> shared;  // the way to use both
  pcow::ImageInfo info;                            // as of shutdown
  std::atomic<uint64_t> dram_size = 0;
  uint64_t commits = 0;
  uint64_t written_pages = 0;
  uint64_t demoted_pages = 0;
  uint64_t changed_pages = 0;  // by commits
  uint64_t last_pause_ns = 0;
  std::string deletion_error;  // of the last tiering_deletion_step()
  // With persistence=epoch; goes first.
  std::unique_ptr<tiering::Migration> migration;
  std::unique_ptr<tiering::EpochHost> host;
  std::unique_ptr<tiering::EpochManager> manager;
};

namespace tiering::c_api {

using pcow::Code;
using pcow::make_error;
using pcow::Result;

inline int c_code(Code code) {
  switch (code) {
    case Code::kInvalid:
      return TIERING_E_INVALID;
    case Code::kNotFound:
      return TIERING_E_NOT_FOUND;
    case Code::kPermission:
      return TIERING_E_PERMISSION;
    case Code::kBusy:
      return TIERING_E_BUSY;
    case Code::kNoSpace:
      return TIERING_E_NO_SPACE;
    case Code::kIo:
      return TIERING_E_IO;
    case Code::kCorrupt:
      return TIERING_E_CORRUPT;
    case Code::kForeign:
      return TIERING_E_FOREIGN;
    case Code::kUnsupported:
      return TIERING_E_UNSUPPORTED;
    case Code::kExists:
      return TIERING_E_EXISTS;
    case Code::kNeedsRecovery:
      return TIERING_E_NEEDS_RECOVERY;
    case Code::kNoMemory:
      return TIERING_E_NO_MEMORY;
    case Code::kLogFull:
      return TIERING_E_LOG_FULL;
    case Code::kInternal:
      break;
  }
  return TIERING_E_INTERNAL;
}

// Copies text into a fixed buffer, cut if need be, always terminated.
template <size_t N>
void copy_text(char (&out)[N], std::string_view text) {
  const size_t length = std::min(text.size(), N - 1);
  std::memcpy(out, text.data(), length);
  out[length] = '\0';
}

inline int fail(tiering_error* err, Code code, int sys_errno, std::string_view message) {
  if (err != nullptr) {
    err->code = c_code(code);
    err->sys_errno = sys_errno;
    copy_text(err->message, message);
  }
  return c_code(code);
}

// Runs `body`, a Result<void> without exceptions beyond this point.
template <typename Body>
int guarded(tiering_error* err, const Body& body) noexcept {
  try {
    const Result<void> result = body();
    if (result) return TIERING_OK;
    return fail(err, result.error().code, result.error().sys_errno, result.error().message);
  } catch (const std::bad_alloc&) {
    return fail(err, Code::kNoMemory, 0, "out of memory");
  } catch (const std::exception& exception) {
    return fail(err, Code::kInternal, 0, exception.what());
  } catch (...) {
    return fail(err, Code::kInternal, 0, "unknown exception");
  }
}

// A structure of the caller, who may have been built against another version of the header: what
// both know is copied, nothing beyond struct_size is touched.
template <typename T>
Result<T> import_struct(const T* from, const char* name) {
  T copy{};
  if (from == nullptr || from->struct_size < sizeof(T::struct_size)) {
    return make_error(Code::kInvalid, std::string(name) + ": struct_size is not set");
  }
  std::memcpy(&copy, from, std::min<size_t>(from->struct_size, sizeof(T)));
  return copy;
}

template <typename T>
Result<void> export_struct(T& values, T* to, const char* name) {
  if (to == nullptr || to->struct_size < sizeof(T::struct_size)) {
    return make_error(Code::kInvalid, std::string(name) + ": struct_size is not set");
  }
  values.struct_size = to->struct_size;
  std::memcpy(to, &values, std::min<size_t>(to->struct_size, sizeof(T)));
  return {};
}

// Calls `done` with what became of it.
std::function<void(const Result<void>&)> answer_to(tiering_done* done, void* opaque);

// Refuses a policy that cannot be honoured.
Result<void> check_policy(tiering_policy policy, tiering_persistence persistence);
// Gives a region with epochs what moves its pages, for the manager that makes them.
Result<void> add_policy(const tiering_options& options, tiering_region& region);

// Refuses options of epochs that cannot be honoured.
Result<void> check_epoch_options(const tiering_options& options);
// Gives the region what makes its epochs. REQUIRES: check_epoch_options(), add_policy().
Result<void> add_epochs(const tiering_options& options, tiering_region& region);

}  // namespace tiering::c_api
