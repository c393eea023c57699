// SPDX-License-Identifier: BSD-3-Clause
#include <pcow/status.h>
#include <array>
#include <cerrno>
#include <new>
#include <system_error>

#include "pcow/base/no_memory.h"

namespace pcow {
namespace {

struct CodeText {
  Code code;
  std::string_view name;
  std::string_view remedy;  // appended to errors that come from errno; empty: none
};

constexpr std::array kCodes = {
    CodeText{Code::kInvalid, "invalid", ""},
    CodeText{Code::kNotFound, "not-found", "check the path"},
    CodeText{Code::kPermission, "permission", "check owner and mode of the file and its directory"},
    CodeText{Code::kBusy, "busy", "close the other user first"},
    CodeText{Code::kNoSpace, "no-space",
             "free space on the file system (or raise the quota or file size limit) and try again"},
    CodeText{Code::kIo, "io", "check the medium and the kernel log"},
    CodeText{Code::kCorrupt, "corrupt", ""},
    CodeText{Code::kForeign, "foreign", ""},
    CodeText{Code::kUnsupported, "unsupported", "use another file system or kernel"},
    CodeText{Code::kExists, "exists", "choose another name or remove the file"},
    CodeText{Code::kNeedsRecovery, "needs-recovery", ""},
    CodeText{Code::kNoMemory, "no-memory",
             "free memory, or raise vm.max_map_count or the address space limit"},
    CodeText{Code::kLogFull, "log-full", ""},
    CodeText{Code::kInternal, "internal", ""},
};

const CodeText& text_of(Code code) {
  for (const CodeText& text : kCodes) {
    if (text.code == code) return text;
  }
  return kCodes.back();
}

Code code_of_errno(int sys_errno) {
  switch (sys_errno) {
    case ENOENT:
    case ENOTDIR:
      return Code::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermission;
    case EBUSY:
    case ETXTBSY:
    case EWOULDBLOCK:
      return Code::kBusy;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return Code::kNoSpace;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return Code::kNoMemory;
    case EEXIST:
      return Code::kExists;
    case EISDIR:
    case EINVAL:
    case ENAMETOOLONG:
    case ELOOP:
      return Code::kInvalid;
    case EOPNOTSUPP:
    case ENOSYS:
      return Code::kUnsupported;
    default:
      return Code::kIo;
  }
}

}  // namespace

std::string_view code_name(Code code) { return text_of(code).name; }

Error make_error(Code code, std::string message) { return Error{code, 0, std::move(message)}; }

Error errno_error(int sys_errno, std::string_view what) {
  const Code code = code_of_errno(sys_errno);
  std::string message(what);
  message += ": ";
  message += std::generic_category().message(sys_errno);
  if (const std::string_view remedy = text_of(code).remedy; !remedy.empty()) {
    message += "; ";
    message += remedy;
  }
  return Error{code, sys_errno, std::move(message)};
}

Error no_memory_error(const std::string& path) noexcept {
  try {
    return errno_error(ENOMEM, "'" + path + "'");
  } catch (const std::bad_alloc&) {
    return Error{Code::kNoMemory, ENOMEM, {}};
  }
}

}  // namespace pcow
