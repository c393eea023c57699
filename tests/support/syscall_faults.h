// SPDX-License-Identifier: BSD-3-Clause
//
// Makes the nth call of the engine to the kernel fail. Linking this library replaces the calls
// named below in the whole test program; without a plan they pass through. memory_faults.cc, a
// library of its own, adds those that give memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace test {

enum class Call {
  kWrite,    // pwritev, write
  kFlush,    // fdatasync, fsync
  kReserve,  // fallocate
  kPunch,    // fallocate, of holes
  kExtend,   // ftruncate
  kRead,     // pread, read
  kSeek,     // lseek, for data and holes
  kOpen,     // open
  kStat,     // fstat
  kLock,     // flock
  kRename,   // rename, renameat2, link, symlink
  kSocket,   // connect, send, recv, poll
  // of memory_faults.cc:
  kMap,       // mmap, mremap
  kAdvise,    // madvise, process_madvise
  kTrack,     // userfaultfd and ioctl: how writes to memory are found
  kAllocate,  // operator new, which throws
};
inline constexpr size_t kCallKinds = static_cast<size_t>(Call::kAllocate) + 1;
// What a medium may fail at.
inline constexpr Call kMediumCalls[] = {Call::kWrite, Call::kFlush,  Call::kReserve,
                                        Call::kPunch, Call::kExtend, Call::kRead};
std::string call_name(Call call);

// For sys_errno: the process ends in front of the call, with this exit code.
inline constexpr int kCrash = -1;
inline constexpr int kCrashExit = 99;

// While it lives, the nth (from 1) `call` fails with `sys_errno`, and so do all later ones when
// `sticky`. `*told`, if any, becomes true in front of that.
class FaultPlan {
 public:
  FaultPlan(Call call, uint64_t nth, int sys_errno, bool sticky = false, bool* told = nullptr);
  ~FaultPlan();
  FaultPlan(const FaultPlan&) = delete;
  FaultPlan& operator=(const FaultPlan&) = delete;

  bool hit() const;  // the nth call was made, and failed
};

// How often each of them was called, by kind.
using CallCounts = std::array<uint64_t, kCallKinds>;
inline uint64_t count_of(const CallCounts& counts, Call call) {
  return counts.at(static_cast<size_t>(call));
}

// Counts the calls that are made while it lives. They need not fail.
class CallCounter {
 public:
  CallCounter();
  ~CallCounter();
  CallCounter(const CallCounter&) = delete;
  CallCounter& operator=(const CallCounter&) = delete;

  CallCounts counts() const;
};

// A loop that lets every call fail in turn goes on by so many calls: 1, or $PCOW_FAULT_STEP where
// machines are slow.
uint64_t fault_step();

// While it lives, no call does all that it is asked to: reads and writes end after some bytes, and
// every other call is interrupted by a signal (EINTR) where that can be.
class Interruptions {
 public:
  Interruptions();
  ~Interruptions();
  Interruptions(const Interruptions&) = delete;
  Interruptions& operator=(const Interruptions&) = delete;
};

// For the replaced calls: whether this one is to fail; errno is set.
bool fault_due(Call call);

}  // namespace test
