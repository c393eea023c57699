// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/drop_check.h"

namespace tiering {

bool was_stored_to(const PageSet& stored_since_plan, pcow::PageIndex page) {
  return stored_since_plan.contains(page);
}

}  // namespace tiering
