// SPDX-License-Identifier: BSD-3-Clause
//
// The calls of syscall_faults.h that are about memory. Linking this replaces them in the whole
// program.
#include <dlfcn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstdarg>
#include <cstdlib>
#include <new>

#include "tests/support/syscall_faults.h"

namespace {

template <typename Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

#pragma GCC visibility push(default)  // shared libraries are to find them, too
extern "C" {

void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  if (test::fault_due(test::Call::kMap)) return MAP_FAILED;
  static auto* const kNext = real<void*(void*, size_t, int, int, int, off_t)>("mmap");
  return kNext(address, length, protection, flags, fd, offset);
}

void* mremap(void* address, size_t size, size_t new_size, int flags, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, flags);
  void* const to = va_arg(arguments, void*);
  va_end(arguments);
  if (test::fault_due(test::Call::kMap)) return MAP_FAILED;
  static auto* const kNext = real<void*(void*, size_t, size_t, int, ...)>("mremap");
  return kNext(address, size, new_size, flags, to);
}

int madvise(void* address, size_t length, int advice) noexcept {
  if (test::fault_due(test::Call::kAdvise)) return -1;
  static auto* const kNext = real<int(void*, size_t, int)>("madvise");
  return kNext(address, length, advice);
}

int ioctl(int fd, unsigned long request, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (test::fault_due(test::Call::kTrack)) return -1;
  static auto* const kNext = real<int(int, unsigned long, ...)>("ioctl");
  return kNext(fd, request, argument);
}

// Reads as many words as there can be, as the C library does, which is more than the caller gave.
__attribute__((no_sanitize("address"))) long syscall(long number, ...) noexcept {
  long words[6];
  std::va_list arguments;
  va_start(arguments, number);
  for (long& word : words) word = va_arg(arguments, long);
  va_end(arguments);
  if (number == SYS_process_madvise && test::fault_due(test::Call::kAdvise)) return -1;
  if (number == SYS_userfaultfd && test::fault_due(test::Call::kTrack)) return -1;
  static auto* const kNext = real<long(long, ...)>("syscall");
  return kNext(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

}  // extern "C"
#pragma GCC visibility pop

void* operator new(size_t size) {
  void* const memory =
      test::fault_due(test::Call::kAllocate) ? nullptr : std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new[](size_t size) { return operator new(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
