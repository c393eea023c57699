// SPDX-License-Identifier: BSD-3-Clause
//
// What an image may hold after a crash.
//
// An expectation is a list of models, of which the image must be one. What persistence=volatile
// promises (data stored in place, pcow/engine/image_write.cc) is one model whose pages have a set
// of allowed contents. A log that holds epochs promises models with one content a page: the epoch
// that was committed last, or the one whose commit is under way.
//
// Content describes itself: each 8-byte word of a page names the page, its place in it and the
// version (the number of the write), so bytes of another page or of an older time are recognised.
// A page whose lines are of several writes has a version of its own that stands for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace crash {

// The number of the write that made a page's content; 0: all zero.
using Version = uint64_t;
// The version of a page with the lines in `mask` of one version and the others of another.
Version mix_lines(Version base, Version other, uint64_t mask);

uint64_t content_word(uint64_t page, Version version, uint64_t word);
std::vector<std::byte> page_content(uint64_t page, Version version);
// "word 3 of page 7, version 12", for messages.
std::string content_text(uint64_t word);

// Word by word a page holds one of these; a page not named is all zero.
using Pages = std::map<uint64_t, std::set<Version>>;

// What a snapshot keeps.
struct Kept {
  uint64_t size = 0;
  Pages pages = {};
};

struct Model {
  uint64_t size = 0;
  uint64_t epoch = 0;
  Pages pages = {};
  std::map<std::string, Kept> snapshots = {};  // by name
  std::optional<bool> clean = {};              // whether the image says that it was closed cleanly
};

struct Expectation {
  std::vector<Model> any_of;
  bool may_not_exist = false;  // while it is being created
  bool leaks_more = false;     // space that a writer does not give back, but a repair
};

// An image as it was found after a crash and its recovery.
struct Found {
  using Bytes = std::map<uint64_t, std::vector<std::byte>>;  // of the pages that it owns
  struct Snapshot {
    uint64_t size = 0;
    std::optional<Bytes> pages = {};  // if they were looked at
  };
  uint64_t size = 0;
  uint64_t epoch = 0;
  bool clean = false;
  Bytes pages;
  std::map<std::string, Snapshot> snapshots;

  // Of what a user of the image can see, but for the pages of snapshots.
  uint64_t digest() const;
};

// What is wrong with it; nothing if it is one of the models.
std::optional<std::string> contradiction(const Found& found, const Expectation& expected);

// Follows the operations on an image. Each returns what is allowed while it runs; after() is what
// is allowed once it has returned.
class Oracle {
 public:
  explicit Oracle(uint64_t size) : size_(size) {}

  // What shows through the image until it is written over.
  void set_base(const std::map<uint64_t, Version>& pages);

  Expectation create() const;
  Expectation write(const std::map<uint64_t, Version>& pages);
  // The pages are part of the epoch that is under way; to be called when they are. `changed`: some
  // of them needed a record. (One that is as it was logged last does as well.)
  void log(const std::map<uint64_t, Version>& pages, bool changed);
  Expectation commit();
  // Pages that become zero; note_discard() once they are. `changed`: some may have held something.
  Expectation discard(uint64_t first, uint64_t count);
  void note_discard(bool changed) { written_since_commit_ |= changed; }
  Expectation resize(uint64_t size);
  Expectation create_snapshot(const std::string& name);
  Expectation delete_snapshot(const std::string& name);
  Expectation apply_snapshot(const std::string& name);
  Expectation rebase();  // that has something to write, or to commit
  Expectation close();
  Expectation reopen();
  Expectation restart_epoch() {
    drop_epoch();
    return after();
  }
  Expectation after() const { return {{model()}, false}; }

  Version new_version() { return next_version_++; }

  uint64_t size() const { return size_; }
  uint64_t epoch() const { return epoch_; }
  bool epoch_under_way() const { return epoch_under_way_; }
  // The content that a reader sees, if it is known for certain.
  std::optional<Version> content(uint64_t page) const;
  std::vector<uint64_t> owned_pages() const;
  std::vector<std::string> snapshots() const;
  // The state in which an image was found, as the start of what follows.
  void adopt(const Found& found);
  // The same when the process was killed and the medium lives on: which of the models it is, but
  // not what of a page is durable.
  void adopt(const Found& found, const Expectation& expected);

 private:
  struct PageState {
    std::set<Version> committed;  // more than one: a crash mixed them
    std::vector<Version> later;   // written since, not committed
  };
  Model model() const;
  void settle();
  void drop_epoch();

  uint64_t size_;
  uint64_t epoch_ = 0;
  Version next_version_ = 1;
  bool written_since_commit_ = false;
  std::map<uint64_t, PageState> pages_;  // that the image owns
  std::map<uint64_t, Version> logged_;   // not committed
  bool epoch_under_way_ = false;
  std::map<std::string, Kept> snapshots_;
};

}  // namespace crash
