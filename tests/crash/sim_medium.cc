// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/sim_medium.h"

#include <sys/file.h>

#include <stdexcept>

namespace crash {

SimMedium& SimMedium::get() {
  static SimMedium medium;
  return medium;
}

void SimMedium::load(MediumKind kind, std::optional<SparseBytes> content) {
  if (!fds_.empty()) throw std::logic_error("the engine left a descriptor open");
  kind_ = kind;
  content_ = std::move(content);
  second_exists_ = content_.has_value();
  next_number_ = 0;
}

int SimMedium::open_file(uint64_t file, bool create) {
  if (create && file == 0) content_.emplace();
  if (create && file != 0) second_exists_ = true;
  fds_[next_fd_] = std::make_shared<OpenFile>(OpenFile{.file = file});
  return next_fd_++;
}

int SimMedium::open_directory() {
  fds_[next_fd_] = std::make_shared<OpenFile>(OpenFile{.directory = true});
  return next_fd_++;
}

int SimMedium::duplicate(int fd) {
  fds_[next_fd_] = fds_.at(fd);
  return next_fd_++;
}

bool SimMedium::lock(int fd, int operation) {
  const int wanted = operation & (LOCK_SH | LOCK_EX);
  OpenFile& mine = *fds_.at(fd);
  for (const auto& [number, other] : fds_) {
    if (other.get() == &mine || other->file != mine.file || other->lock == 0 || wanted == 0) {
      continue;
    }
    if (wanted == LOCK_EX || other->lock == LOCK_EX) return false;
  }
  mine.lock = wanted;
  return true;
}

Event* SimMedium::append(EventKind kind, uint64_t offset, uint64_t length) {
  if (trace_ == nullptr) return nullptr;
  trace_->events.push_back({kind, step_, offset, length});
  return &trace_->events.back();
}

void SimMedium::store(uint64_t offset, std::span<const std::byte> bytes, bool flushed) {
  content_->write(offset, bytes);
  if (Event* event = append(EventKind::kStore, offset, bytes.size())) {
    event->flushed = flushed;
    event->bytes.assign(bytes.begin(), bytes.end());
  }
}

void SimMedium::reserve(uint64_t offset, uint64_t length) {
  content_->reserve(offset, length);
  append(EventKind::kReserve, offset, length);
}

void SimMedium::punch(uint64_t offset, uint64_t length) {
  content_->punch(offset, length);
  append(EventKind::kPunch, offset, length);
}

void SimMedium::resize(uint64_t file, uint64_t size) {
  content_->size_at(file) = size;
  content_->drop_beyond_size();
  append(EventKind::kResize, file, size);
}

void SimMedium::drain() { append(EventKind::kDrain, 0, 0); }

void SimMedium::sync(uint64_t file) { append(EventKind::kSync, file, 0); }

}  // namespace crash
