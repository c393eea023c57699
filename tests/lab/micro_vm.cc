// SPDX-License-Identifier: BSD-3-Clause
#include "tests/lab/micro_vm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace lab {
namespace {

constexpr uint32_t kLowSize = 16 * MicroVm::kPageSize;
constexpr uint32_t kFillProgram = 0x1000;
constexpr uint32_t kReadProgram = 0x1020;
constexpr uint32_t kScratchPage = 0x2000;

// again: mov [edi], eax; add edi, 4096; inc eax; dec ecx; jnz again; hlt
constexpr std::array<uint8_t, 13> kFillCode = {0x89, 0x07, 0x81, 0xc7, 0x00, 0x10, 0x00,
                                               0x00, 0x40, 0x49, 0x75, 0xf4, 0xf4};
// mov eax, [edi]; hlt
constexpr std::array<uint8_t, 3> kReadCode = {0x8b, 0x07, 0xf4};

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

[[noreturn]] void fail_errno(const std::string& what) {
  const int error = errno;
  fail("/dev/kvm: " + what + ": " + std::strerror(error));
}

// ioctl(2) that may not fail.
template <typename Argument>
int control(int fd, unsigned long request, Argument argument, const char* name) {
  const int result = ioctl(fd, request, argument);
  if (result < 0) fail_errno(name);
  return result;
}

kvm_segment flat_segment(uint16_t selector, uint8_t type) {
  kvm_segment segment{};
  segment.limit = 0xffff'ffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.db = 1;
  segment.s = 1;
  segment.g = 1;
  return segment;
}

}  // namespace

MicroVm::Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

MicroVm::Mapping::~Mapping() {
  if (base_ != nullptr) munmap(base_, size_);
}

void MicroVm::Mapping::map(size_t size, int fd) {
  const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) fail_errno("mmap");
  base_ = static_cast<std::byte*>(base);
  size_ = size;
}

bool MicroVm::Outcome::ok() const { return error == 0 && exit_reason == KVM_EXIT_HLT; }

std::string MicroVm::Outcome::text() const {
  if (ok()) return "KVM_RUN succeeded";
  const std::string what = error != 0 ? std::string("failed with ") + strerrorname_np(error)
                                      : std::string("did not reach the end of the program");
  return "KVM_RUN " + what + ", exit reason " + std::to_string(exit_reason) +
         ", at guest-physical page " + std::to_string(gpa / kPageSize);
}

MicroVm::MicroVm(std::span<std::byte> memory) {
  kvm_.set(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (kvm_.get() < 0) fail_errno("cannot open it; this test needs a machine with KVM");
  const int version = control(kvm_.get(), KVM_GET_API_VERSION, 0UL, "KVM_GET_API_VERSION");
  if (version != KVM_API_VERSION) fail("/dev/kvm has version " + std::to_string(version));
  vm_.set(control(kvm_.get(), KVM_CREATE_VM, 0UL, "KVM_CREATE_VM"));
  low_.map(kLowSize, -1);
  std::memcpy(low_.get() + kFillProgram, kFillCode.data(), kFillCode.size());
  std::memcpy(low_.get() + kReadProgram, kReadCode.data(), kReadCode.size());
  add_slot(0, 0, {low_.get(), kLowSize});
  add_slot(1, kMemoryGpa, memory);
  vcpu_.set(control(vm_.get(), KVM_CREATE_VCPU, 0UL, "KVM_CREATE_VCPU"));
  const int size = control(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0UL, "KVM_GET_VCPU_MMAP_SIZE");
  run_.map(static_cast<size_t>(size), vcpu_.get());
  enter_protected_mode();
  check_that_it_works();
}

MicroVm::~MicroVm() = default;

void MicroVm::add_slot(uint32_t slot, uint32_t gpa, std::span<std::byte> memory) const {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = gpa;
  region.memory_size = memory.size();
  region.userspace_addr = reinterpret_cast<uintptr_t>(memory.data());
  control(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

void MicroVm::enter_protected_mode() const {
  kvm_sregs registers{};
  control(vcpu_.get(), KVM_GET_SREGS, &registers, "KVM_GET_SREGS");
  constexpr uint64_t kProtectedMode = 1 << 0;  // CR0.PE
  constexpr uint64_t kExtensionType = 1 << 4;  // CR0.ET, always set
  constexpr uint8_t kCodeSegment = 0b1011;     // executable, readable, accessed
  constexpr uint8_t kDataSegment = 0b0011;     // writable, accessed
  registers.cr0 = kProtectedMode | kExtensionType;
  registers.cs = flat_segment(1 << 3, kCodeSegment);
  registers.ds = flat_segment(2 << 3, kDataSegment);
  registers.es = registers.fs = registers.gs = registers.ss = registers.ds;
  control(vcpu_.get(), KVM_SET_SREGS, &registers, "KVM_SET_SREGS");
}

// Some machines offer a /dev/kvm that cannot run this; better to hear that than a riddle later on.
void MicroVm::check_that_it_works() {
  constexpr uint32_t kValue = 0x600d'cafe;
  const Outcome written = write(kScratchPage, kValue);
  const Outcome found = written.ok() ? read(kScratchPage) : written;
  if (found.ok() && found.value == kValue) return;
  fail("/dev/kvm does not run a guest in 32-bit protected mode as hardware would: " + found.text() +
       "; this test needs a real KVM");
}

MicroVm::Outcome MicroVm::read(uint32_t gpa) {
  return run({.program = kReadProgram, .gpa = gpa, .count = 1, .value = 0});
}

MicroVm::Outcome MicroVm::fill(uint32_t gpa, uint32_t pages, uint32_t value) {
  return run({.program = kFillProgram, .gpa = gpa, .count = pages, .value = value});
}

MicroVm::Outcome MicroVm::run(const Registers& in) const {
  constexpr uint64_t kAlwaysSet = 1 << 1;  // bit 1 of EFLAGS
  kvm_regs registers{};
  registers.rip = in.program;
  registers.rdi = in.gpa;
  registers.rcx = in.count;
  registers.rax = in.value;
  registers.rflags = kAlwaysSet;
  control(vcpu_.get(), KVM_SET_REGS, &registers, "KVM_SET_REGS");
  Outcome outcome;
  while (ioctl(vcpu_.get(), KVM_RUN, 0UL) < 0) {
    if (errno == EINTR) continue;
    outcome.error = errno;
    break;
  }
  kvm_run shared{};
  std::memcpy(&shared, run_.get(), sizeof shared);
  outcome.exit_reason = shared.exit_reason;
  control(vcpu_.get(), KVM_GET_REGS, &registers, "KVM_GET_REGS");
  outcome.gpa = static_cast<uint32_t>(registers.rdi);
  outcome.value = static_cast<uint32_t>(registers.rax);
  return outcome;
}

}  // namespace lab
