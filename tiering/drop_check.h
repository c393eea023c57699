// SPDX-License-Identifier: BSD-3-Clause
//
// The question that stands between a planned demotion and a lost store. A file of its own, because
// here the torture test links one that gives the wrong answer, to see that it is found out.
#pragma once

#include <pcow/units.h>

#include "tiering/page_set.h"

namespace tiering {

// Whether a page may have been stored to since the demotion was planned, and has to stay.
bool was_stored_to(const PageSet& stored_since_plan, pcow::PageIndex page);

}  // namespace tiering
