// SPDX-License-Identifier: BSD-3-Clause
//
// Makes the checksums of a changed image right again, from the inside out, so that a change is
// judged by what it means. Without this, nearly every input would end at the first checksum.
#pragma once

#include <cstdint>
#include <map>

#include "tests/fuzz/template_image.h"

namespace fuzz {

// `base` says what each page is; pages that it does not have are left alone. With `count`, the
// numbers of pages that are kept in several places are made to fit the page maps as well: so an
// input that sets a bit in a map is a valid image that owns another page.
void seal_all(const TemplateImage& base, bool count,
              std::map<uint64_t, pcow::format::Block>& pages);

}  // namespace fuzz
