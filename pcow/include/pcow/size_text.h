// SPDX-License-Identifier: BSD-3-Clause
//
// Sizes as people write them.
#pragma once

#include <pcow/status.h>
#include <cstdint>
#include <string>
#include <string_view>

namespace pcow {

// "64M", "1.5G", "4096", "1T": suffixes k K M G T P E are powers of 1024, as qemu-img reads them.
Result<uint64_t> parse_size(std::string_view text);
// "1.5 GiB", as qemu-img prints sizes.
std::string format_size(uint64_t bytes);

}  // namespace pcow
