// SPDX-License-Identifier: BSD-3-Clause
//
// What is done to the image while the medium is recorded: scripts, or random operations.
#pragma once

#include <pcow/image.h>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/crash/choices.h"
#include "tests/crash/oracle.h"
#include "tests/crash/trace.h"

namespace crash {

inline constexpr uint64_t kLogSize = 4 * pcow::kMiB;  // the smallest: recovery reads all of it

struct Step {
  std::string name;
  Expectation in_flight;
  Expectation after;
};

// One recorded run: a trace, and what is allowed during and after each of its steps.
struct Recording {
  Trace trace;
  std::vector<Step> steps;
  Oracle oracle;  // at the end
};

// Operates the engine on the simulated medium and the oracle beside it. An operation that fails is
// a failure of the explorer itself and throws.
class Driver {
 public:
  // An image that start() creates, with an explicit create(). `base_pages`: on a raw base with
  // content in these pages. `striped`: over two files.
  Driver(MediumKind kind, uint64_t size, const std::vector<uint64_t>& base_pages = {},
         bool striped = false);
  // An image found in this state.
  Driver(MediumKind kind, SparseBytes content, const Oracle& oracle);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // Forgets what was recorded: what is there now is durable.
  void start();

  void create();
  // Pages that exist already get new content. `zero`: all zero.
  void write(const std::vector<uint64_t>& pages, bool zero = false);
  // The same as part of the epoch that is under way; if it is full, it is committed first.
  void log(const std::map<uint64_t, Version>& pages);
  void log_new(const std::vector<uint64_t>& pages);  // with new content
  // Some lines of a page get new content.
  void log_lines(uint64_t page, uint64_t mask);
  void checkpoint(uint64_t pages_max);
  // Drops the epoch; its log gets so large, or stays as it is.
  void restart_epoch(uint64_t log_size = kLogSize);
  void commit();
  void discard(uint64_t first_page, uint64_t count);
  void resize(uint64_t size);
  void close();
  void open();
  void kill();  // the process, not the machine: what was stored is there
  // The same in the middle of an operation, after so many of its stores, holes and fences.
  void kill_during(const std::function<void()>& operation, size_t events);
  void reclaim();
  // Of a closed image: space of each kind is leaked, as far as a sound image can. To be followed by
  // start().
  void leak();
  void repair();
  // Of a closed image.
  void add_checksums();
  void fold(uint64_t first_chunk, uint64_t count);
  void create_snapshot(const std::string& name);
  void delete_snapshot(const std::string& name);
  void begin_deletion(const std::string& name);
  // `mapped`: what was given up may not be emptied. Whether all that can be done is.
  bool continue_deletion(uint64_t pages_max, bool mapped = false);
  bool is_deleting() const { return image_->info().deleting; }
  void apply_snapshot(const std::string& name);
  // To a raw base with content in these pages; none of them: to no base.
  void rebase(const std::vector<uint64_t>& base_pages);

  Version new_version() { return oracle_.new_version(); }
  const Oracle& oracle() const { return oracle_; }
  bool is_open() const { return image_ != nullptr; }
  Recording finish();

 private:
  // Not everything can be done while an epoch is under way.
  void end_epoch();
  void end_process(const Expectation& expected);
  void step(const std::string& name, Expectation in_flight, const std::function<void()>& body);

  MediumKind kind_;
  bool striped_ = false;
  std::optional<std::string> base_;
  size_t bases_ = 0;
  Oracle oracle_;
  std::unique_ptr<pcow::Image> image_;
  std::optional<Expectation> unsettled_;  // what an operation that was killed may have left
  Trace trace_;
  std::vector<Step> steps_;
};

struct Script {
  const char* name;
  const char* what;
  uint64_t size;  // of the image to begin with
  void (*run)(Driver& driver);
  std::vector<uint64_t> base_pages = {};  // if any: the image has a base
  bool striped = false;                   // over two files
};
const std::vector<Script>& scripts();

// An image that is open, from where on what happens is recorded.
void begin(Driver& driver);

// Parts of scripts(): of epochs (epoch_workloads.cc), of repairs and deletions in steps
// (upkeep_workloads.cc).
const std::vector<Script>& epoch_scripts();
const std::vector<Script>& upkeep_scripts();
// Part of random_operations().
void random_epoch_operation(Driver& driver, Random& random);

// Few places, so that pages, chunks and GiBs are met again.
uint64_t pick_page(const Oracle& oracle, Random& random);

void random_operations(Driver& driver, Random& random, size_t count);

}  // namespace crash
