// SPDX-License-Identifier: BSD-3-Clause
//
// ThreadSanitizer does not see how oneTBB hands work from thread to thread, because the library is
// not built with it, and would report the parts of oneTBB that are templates. So this file is built
// without it (CMakeLists.txt) and tells it what on_onetbb() promises: what the caller did
// before happens before every part, and every part before what the caller does next.
#include "tiering/hotness/parallel.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#ifdef PCOW_SANITIZE_THREAD
extern "C" {
void __tsan_acquire(void* address);  // NOLINT: the sanitizer's name
void __tsan_release(void* address);  // NOLINT: the sanitizer's name
}
#endif

namespace tiering {
namespace {

struct Handover {
#ifdef PCOW_SANITIZE_THREAD
  void give() { __tsan_release(this); }
  void take() { __tsan_acquire(this); }
#else
  void give() {}
  void take() {}
#endif
  char address = 0;
};

}  // namespace

void on_onetbb(size_t count, const PartBody& body) {
  Handover start;
  Handover finish;
  start.give();
  // Isolated: while this thread waits, it must not pick up foreign work that wants the caller's
  // locks.
  tbb::this_task_arena::isolate([&] {
    tbb::parallel_for(tbb::blocked_range<size_t>(0, count),
                      [&](const tbb::blocked_range<size_t>& part) {
                        start.take();
                        body(part.begin(), part.end());
                        finish.give();
                      });
  });
  finish.take();
}

}  // namespace tiering
