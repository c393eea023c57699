// SPDX-License-Identifier: BSD-3-Clause
//
// The smallest guest that KVM can run: one vCPU in 32-bit protected mode without paging, whose
// program loads from or stores to the caller's memory and halts. It shows what KVM makes of a
// mapping of the host, without a firmware or a kernel in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace lab {

class MicroVm {
 public:
  // What one KVM_RUN did.
  struct Outcome {
    int error = 0;             // errno of KVM_RUN; 0: it returned
    uint32_t exit_reason = 0;  // KVM_EXIT_HLT: the program ran to its end
    uint32_t gpa = 0;          // the access at which it stopped, if it did not
    uint32_t value = 0;        // of read()

    bool ok() const;
    // "KVM_RUN failed with EFAULT, …": for messages.
    std::string text() const;
  };

  // Where the guest sees the caller's memory.
  static constexpr uint32_t kMemoryGpa = 0x1000'0000;
  static constexpr uint32_t kPageSize = 4096;

  // The memory must outlive the VM; it starts and ends at a page, and is at most 1 GiB. Throws
  // std::runtime_error if there is no /dev/kvm, or if it does not run a guest as hardware would.
  explicit MicroVm(std::span<std::byte> memory);
  ~MicroVm();
  MicroVm(const MicroVm&) = delete;
  MicroVm& operator=(const MicroVm&) = delete;

  // Loads or stores the 32-bit word at a guest-physical address.
  Outcome read(uint32_t gpa);
  Outcome write(uint32_t gpa, uint32_t value) { return fill(gpa, 1, value); }
  // Stores value, value + 1, … to the same place of `pages` pages one after the other, without
  // leaving the guest in between. REQUIRES: pages > 0.
  Outcome fill(uint32_t gpa, uint32_t pages, uint32_t value);

 private:
  // Owns a file descriptor.
  class Descriptor {
   public:
    Descriptor() = default;
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    void set(int fd) { fd_ = fd; }
    int get() const { return fd_; }

   private:
    int fd_ = -1;
  };
  // Owns a mapping.
  class Mapping {
   public:
    Mapping() = default;
    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    // `fd` < 0: anonymous memory.
    void map(size_t size, int fd);
    std::byte* get() const { return base_; }

   private:
    std::byte* base_ = nullptr;
    size_t size_ = 0;
  };
  struct Registers {
    uint32_t program = 0;
    uint32_t gpa = 0;
    uint32_t count = 0;
    uint32_t value = 0;
  };

  void add_slot(uint32_t slot, uint32_t gpa, std::span<std::byte> memory) const;
  void enter_protected_mode() const;
  void check_that_it_works();
  Outcome run(const Registers& registers) const;

  Mapping low_;  // guest-physical 0: the program, and a page to try it on
  Mapping run_;  // struct kvm_run
  Descriptor kvm_;
  Descriptor vm_;
  Descriptor vcpu_;
};

}  // namespace lab
