// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace pcow {

// Text that comes from an image, as a terminal may see it: control characters, also those of two
// bytes in UTF-8 (U+0080 to U+009F), become '?'.
inline std::string printable(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool second = i > 0 && text[i - 1] == '\xc2' && byte >= 0x80 && byte < 0xa0;
    if (byte < ' ' || byte == 0x7f || second) text[i] = '?';
    if (second) text[i - 1] = '?';
  }
  return text;
}

}  // namespace pcow
