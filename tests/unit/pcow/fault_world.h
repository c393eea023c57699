// SPDX-License-Identifier: BSD-3-Clause
//
// Images for tests of what a failing call leaves behind: made once, put back for each call that
// fails, looked at through the engine and through the checker, and compared with what they should
// show.
#pragma once

#include <pcow/image.h>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "tests/support/image_fixture.h"
#include "tests/support/temp_dir.h"

namespace test {

// Pages of one view; those that are not named are zero.
using PageValues = std::map<uint64_t, uint64_t>;  // page → value of its pattern

// What an image shows.
struct Shown {
  uint64_t size = 0;
  PageValues active;
  std::map<std::string, PageValues> snapshots;
  std::string base;  // path that it names; empty: none

  bool operator==(const Shown&) const = default;
};
std::string describe(const Shown& shown);

// Which of two states an image may be in.
enum class Allowed {
  kBefore,
  kEither,    // the one or the other, as a whole
  kPageWise,  // each page of the one or the other, or zero where it was
};

class FaultWorld {
 public:
  static constexpr uint64_t kSize = 3 * pcow::kGiB;
  // All that images of this world have pages at, and their neighbours.
  static const std::vector<uint64_t>& pages();

  FaultWorld();

  const std::string& directory() const { return live_; }
  std::string path(const std::string& name) const { return live_ + "/" + name; }
  // Without a need for memory, which a test may have taken away.
  const std::string& path() const { return vm_path_; }
  const std::string& fresh_path() const { return fresh_path_; }  // where there is no image yet
  // Keeps the files as they are, to begin with them again and again.
  void keep_as_start();
  void put_back() const;
  // What each file here holds, by name.
  std::map<std::string, std::string> digests() const;
  // Reading `crashed()` is to find what a crash would leave now.
  void copy_crashed() const;
  std::string crashed(const std::string& name = "vm.pcow") const { return crash_ + "/" + name; }

  // Checks an image, opens it for reading and for writing, gives back what it leaked, and checks it
  // again: one of the allowed states, no corruption, and at last no leak. Not twice for the same
  // bytes and states.
  void verify(const std::string& path, const Shown& before, const Shown& after, Allowed allowed);

 private:
  void verify_bytes(const std::string& path, const Shown& before, const Shown& after,
                    Allowed allowed) const;
  const TempDir dir_;
  const std::string start_ = dir_.file("start");
  const std::string live_ = dir_.file("live");
  const std::string crash_ = dir_.file("crash");
  const std::string vm_path_ = path("vm.pcow");
  const std::string fresh_path_ = path("fresh.pcow");
  std::set<std::string> verified_;
};

// As an image that is open shows itself. Errors of reading are errors of the test.
Shown look_at(const pcow::Image& image);
// Also with its snapshots, which are opened one by one.
Shown look_at_file(const std::string& path);
void expect_allowed(const Shown& found, const Shown& before, const Shown& after, Allowed allowed);

// What a page of this value holds; 0: zeros.
Page page_of(uint64_t value);
PageBatch batch_of(const PageValues& pages);

}  // namespace test
