// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/syscall_faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace test {
namespace {

struct Plan {
  std::atomic<bool> active{false};
  Call call = Call::kWrite;
  uint64_t nth = 0;
  int sys_errno = 0;
  bool sticky = false;
  std::atomic<uint64_t> count{0};
};
Plan plan;

// Whether this call is the one to fail.
bool fails(Call call) {
  if (!plan.active.load() || plan.call != call) return false;
  const uint64_t number = ++plan.count;
  if (number != plan.nth && !(plan.sticky && number > plan.nth)) return false;
  errno = plan.sys_errno;
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
  }
  return "?";
}

FaultPlan::FaultPlan(Call call, uint64_t nth, int sys_errno, bool sticky) {
  plan.call = call;
  plan.nth = nth;
  plan.sys_errno = sys_errno;
  plan.sticky = sticky;
  plan.count = 0;
  plan.active = true;
}

FaultPlan::~FaultPlan() { plan.active = false; }

bool FaultPlan::hit() const { return plan.count.load() >= plan.nth; }

uint64_t fault_step() {
  const char* text = std::getenv("PCOW_FAULT_STEP");
  const uint64_t step = text != nullptr ? std::strtoul(text, nullptr, 0) : 1;
  return step > 0 ? step : 1;
}

}  // namespace test

extern "C" {

ssize_t pwritev(int fd, const iovec* parts, int count, off_t offset) {
  if (test::fails(test::Call::kWrite)) return -1;
  static auto* const kNext = test::real<ssize_t(int, const iovec*, int, off_t)>("pwritev");
  return kNext(fd, parts, count, offset);
}

ssize_t pread(int fd, void* out, size_t length, off_t offset) {
  if (test::fails(test::Call::kRead)) return -1;
  static auto* const kNext = test::real<ssize_t(int, void*, size_t, off_t)>("pread");
  return kNext(fd, out, length, offset);
}

int fdatasync(int fd) {
  if (test::fails(test::Call::kFlush)) return -1;
  static auto* const kNext = test::real<int(int)>("fdatasync");
  return kNext(fd);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  const bool punch = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
  if (test::fails(punch ? test::Call::kPunch : test::Call::kReserve)) return -1;
  static auto* const kNext = test::real<int(int, int, off_t, off_t)>("fallocate");
  return kNext(fd, mode, offset, length);
}

int ftruncate(int fd, off_t length) noexcept {
  if (test::fails(test::Call::kExtend)) return -1;
  static auto* const kNext = test::real<int(int, off_t)>("ftruncate");
  return kNext(fd, length);
}

}  // extern "C"
