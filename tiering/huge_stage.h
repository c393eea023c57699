// SPDX-License-Identifier: BSD-3-Clause
//
// What is to take the place of a chunk: its content, and room for the pages that hold it until
// then.
#pragma once

#include <pcow/status.h>
#include <pcow/units.h>
#include <cstddef>
#include <utility>

#include "tiering/address_space.h"

namespace tiering {

class HugeStage {
 public:
  // Errors: kNoMemory.
  static pcow::Result<HugeStage> map() {
    PCOW_TRY_ASSIGN(AddressSpace space, AddressSpace::map(2 * pcow::kChunkSize, pcow::kChunkSize));
    return HugeStage(std::move(space));
  }

  // Each of a chunk's size, and aligned so.
  std::byte* content() const { return space_.at(0); }
  std::byte* former() const { return space_.at(pcow::kChunkSize); }

 private:
  explicit HugeStage(AddressSpace space) : space_(std::move(space)) {}

  AddressSpace space_;
};

}  // namespace tiering
