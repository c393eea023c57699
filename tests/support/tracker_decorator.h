// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>
#include <utility>

#include "tiering/dirty_tracker.h"

namespace test {

// Forwards everything; the broken ones override what they do worse.
class TrackerDecorator : public tiering::DirtyTracker {
 public:
  explicit TrackerDecorator(std::unique_ptr<tiering::DirtyTracker> inner)
      : inner_(std::move(inner)) {}

  tiering::TrackerKind kind() const override { return inner_->kind(); }
  bool may_report_clean() const override { return inner_->may_report_clean(); }
  bool collects_while_written() const override { return inner_->collects_while_written(); }
  pcow::Result<void> attach(tiering::AddressRange range) override { return inner_->attach(range); }
  pcow::Result<void> collect(tiering::AddressRange range, const DirtySink& sink) override {
    return inner_->collect(range, sink);
  }
  pcow::Result<void> rearm() override { return inner_->rearm(); }
  pcow::Result<void> find_dirty(tiering::AddressRange range, const DirtySink& sink) const override {
    return inner_->find_dirty(range, sink);
  }
  pcow::Result<void> inspect(tiering::AddressRange range, const StateSink& sink) const override {
    return inner_->inspect(range, sink);
  }
  pcow::Result<void> disarm(tiering::AddressRange range) override { return inner_->disarm(range); }
  bool adopts_pages() const override { return inner_->adopts_pages(); }
  pcow::Result<void> adopt(tiering::AddressRange range, std::byte* from) override {
    return inner_->adopt(range, from);
  }

 private:
  std::unique_ptr<tiering::DirtyTracker> inner_;
};

}  // namespace test
