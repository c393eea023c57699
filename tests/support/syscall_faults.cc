// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/syscall_faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace test {
namespace {

constexpr size_t kShortTransfer = 1000;  // bytes: neither lines nor pages
constexpr size_t kShortMessage = 7;      // bytes of a message

struct Plan {
  std::atomic<bool> active{false};
  Call call = Call::kWrite;
  uint64_t nth = 0;
  int sys_errno = 0;
  bool sticky = false;
  bool* told = nullptr;
  std::atomic<uint64_t> count{0};
};
Plan plan;
std::atomic<bool> interruptions{false};
// By kind, or the same call of a loop of two would be interrupted for ever.
std::array<std::atomic<uint64_t>, kCallKinds> calls_to_interrupt{};
std::atomic<bool> counting{false};
std::array<std::atomic<uint64_t>, kCallKinds> counted{};

bool interrupted(Call call) {
  const bool can_be = call == Call::kWrite || call == Call::kRead || call == Call::kFlush ||
                      call == Call::kReserve || call == Call::kPunch || call == Call::kExtend ||
                      call == Call::kSocket;
  if (!can_be || !interruptions.load()) return false;
  if (++calls_to_interrupt.at(static_cast<size_t>(call)) % 2 == 0) return false;
  errno = EINTR;
  return true;
}

template <typename Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

std::string call_name(Call call) {
  switch (call) {
    case Call::kWrite:
      return "write";
    case Call::kFlush:
      return "flush";
    case Call::kReserve:
      return "reserve";
    case Call::kPunch:
      return "punch";
    case Call::kExtend:
      return "extend";
    case Call::kRead:
      return "read";
    case Call::kSeek:
      return "seek";
    case Call::kOpen:
      return "open";
    case Call::kStat:
      return "stat";
    case Call::kLock:
      return "lock";
    case Call::kRename:
      return "rename";
    case Call::kSocket:
      return "socket";
    case Call::kMap:
      return "map";
    case Call::kAdvise:
      return "advise";
    case Call::kTrack:
      return "track";
    case Call::kAllocate:
      return "allocate";
  }
  return "?";
}

FaultPlan::FaultPlan(Call call, uint64_t nth, int sys_errno, bool sticky, bool* told) {
  plan.told = told;
  plan.call = call;
  plan.nth = nth;
  plan.sys_errno = sys_errno;
  plan.sticky = sticky;
  plan.count = 0;
  plan.active = true;
}

FaultPlan::~FaultPlan() { plan.active = false; }

bool FaultPlan::hit() const { return plan.count.load() >= plan.nth; }

CallCounter::CallCounter() {
  for (std::atomic<uint64_t>& count : counted) count = 0;
  counting = true;
}

CallCounter::~CallCounter() { counting = false; }

CallCounts CallCounter::counts() const {
  CallCounts result{};
  for (size_t kind = 0; kind < kCallKinds; ++kind) result.at(kind) = counted.at(kind).load();
  return result;
}

uint64_t fault_step() {
  const char* text = std::getenv("PCOW_FAULT_STEP");
  const uint64_t step = text != nullptr ? std::strtoul(text, nullptr, 0) : 1;
  return step > 0 ? step : 1;
}

Interruptions::Interruptions() { interruptions = true; }

Interruptions::~Interruptions() { interruptions = false; }

bool fault_due(Call call) {
  if (counting.load()) ++counted.at(static_cast<size_t>(call));
  if (interrupted(call)) return true;
  if (!plan.active.load() || plan.call != call) return false;
  const uint64_t number = ++plan.count;
  if (number != plan.nth && !(plan.sticky && number > plan.nth)) return false;
  if (plan.told != nullptr) *plan.told = true;
  if (plan.sys_errno == kCrash) _exit(kCrashExit);
  errno = plan.sys_errno;
  return true;
}

}  // namespace test

extern "C" {

ssize_t pwritev(int fd, const iovec* parts, int count, off_t offset) {
  if (test::fault_due(test::Call::kWrite)) return -1;
  static auto* const kNext = test::real<ssize_t(int, const iovec*, int, off_t)>("pwritev");
  if (!test::interruptions.load() || count == 0) return kNext(fd, parts, count, offset);
  const iovec part = {parts->iov_base, std::min(parts->iov_len, test::kShortTransfer)};
  return kNext(fd, &part, 1, offset);
}

ssize_t pread(int fd, void* out, size_t length, off_t offset) {
  if (test::fault_due(test::Call::kRead)) return -1;
  static auto* const kNext = test::real<ssize_t(int, void*, size_t, off_t)>("pread");
  if (test::interruptions.load()) length = std::min(length, test::kShortTransfer);
  return kNext(fd, out, length, offset);
}

int fdatasync(int fd) {
  if (test::fault_due(test::Call::kFlush)) return -1;
  static auto* const kNext = test::real<int(int)>("fdatasync");
  return kNext(fd);
}

int fsync(int fd) {
  if (test::fault_due(test::Call::kFlush)) return -1;
  static auto* const kNext = test::real<int(int)>("fsync");
  return kNext(fd);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  const bool punch = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
  if (test::fault_due(punch ? test::Call::kPunch : test::Call::kReserve)) return -1;
  static auto* const kNext = test::real<int(int, int, off_t, off_t)>("fallocate");
  return kNext(fd, mode, offset, length);
}

int ftruncate(int fd, off_t length) noexcept {
  if (test::fault_due(test::Call::kExtend)) return -1;
  static auto* const kNext = test::real<int(int, off_t)>("ftruncate");
  return kNext(fd, length);
}

off_t lseek(int fd, off_t offset, int whence) noexcept {
  const bool seek = whence == SEEK_DATA || whence == SEEK_HOLE;
  if (seek && test::fault_due(test::Call::kSeek)) return -1;
  static auto* const kNext = test::real<off_t(int, off_t, int)>("lseek");
  return kNext(fd, offset, whence);
}

int open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if (test::fault_due(test::Call::kOpen)) return -1;
  static auto* const kNext = test::real<int(const char*, int, ...)>("open");
  return kNext(path, flags, mode);
}

int fstat(int fd, struct stat* out) noexcept {
  if (test::fault_due(test::Call::kStat)) return -1;
  static auto* const kNext = test::real<int(int, struct stat*)>("fstat");
  return kNext(fd, out);
}

int flock(int fd, int operation) noexcept {
  if (test::fault_due(test::Call::kLock)) return -1;
  static auto* const kNext = test::real<int(int, int)>("flock");
  return kNext(fd, operation);
}

int rename(const char* from, const char* to) noexcept {
  if (test::fault_due(test::Call::kRename)) return -1;
  static auto* const kNext = test::real<int(const char*, const char*)>("rename");
  return kNext(from, to);
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to,
              unsigned flags) noexcept {
  if (test::fault_due(test::Call::kRename)) return -1;
  static auto* const kNext =
      test::real<int(int, const char*, int, const char*, unsigned)>("renameat2");
  return kNext(from_folder, from, to_folder, to, flags);
}

int link(const char* from, const char* to) noexcept {
  if (test::fault_due(test::Call::kRename)) return -1;
  static auto* const kNext = test::real<int(const char*, const char*)>("link");
  return kNext(from, to);
}

int symlink(const char* target, const char* name) noexcept {
  if (test::fault_due(test::Call::kRename)) return -1;
  static auto* const kNext = test::real<int(const char*, const char*)>("symlink");
  return kNext(target, name);
}

// The C++ library, too, is to find this one.
__attribute__((visibility("default"))) ssize_t read(int fd, void* out, size_t length) {
  if (test::fault_due(test::Call::kRead)) return -1;
  static auto* const kNext = test::real<ssize_t(int, void*, size_t)>("read");
  if (test::interruptions.load()) length = std::min(length, test::kShortTransfer);
  return kNext(fd, out, length);
}

ssize_t write(int fd, const void* from, size_t length) {
  if (test::fault_due(test::Call::kWrite)) return -1;
  static auto* const kNext = test::real<ssize_t(int, const void*, size_t)>("write");
  if (test::interruptions.load()) length = std::min(length, test::kShortTransfer);
  return kNext(fd, from, length);
}

int connect(int fd, const sockaddr* address, socklen_t length) {
  if (test::fault_due(test::Call::kSocket)) return -1;
  static auto* const kNext = test::real<int(int, const sockaddr*, socklen_t)>("connect");
  return kNext(fd, address, length);
}

ssize_t send(int fd, const void* from, size_t length, int flags) {
  if (test::fault_due(test::Call::kSocket)) return -1;
  static auto* const kNext = test::real<ssize_t(int, const void*, size_t, int)>("send");
  if (test::interruptions.load()) length = std::min(length, test::kShortMessage);
  return kNext(fd, from, length, flags);
}

ssize_t recv(int fd, void* out, size_t length, int flags) {
  if (test::fault_due(test::Call::kSocket)) return -1;
  static auto* const kNext = test::real<ssize_t(int, void*, size_t, int)>("recv");
  if (test::interruptions.load()) length = std::min(length, test::kShortMessage);
  return kNext(fd, out, length, flags);
}

int poll(pollfd* fds, nfds_t count, int timeout) {
  if (test::fault_due(test::Call::kSocket)) return -1;
  static auto* const kNext = test::real<int(pollfd*, nfds_t, int)>("poll");
  return kNext(fds, count, timeout);
}

}  // extern "C"
