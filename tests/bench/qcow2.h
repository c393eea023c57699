// SPDX-License-Identifier: BSD-3-Clause
//
// The peer of images with a base: a qcow2 file with a backing file, written by QEMU's own benchmark
// (qemu-img bench), which goes through no guest and no kernel block layer.
#pragma once

#include <cstdint>
#include <string>

namespace bench {

// Makes an overlay with clusters of the default size over a raw file, and writes one page into each
// of the first `clusters` of them. Returns the time per write in ns, as qemu-img counts it.
double write_to_fresh_clusters(const std::string& raw, const std::string& overlay,
                               uint64_t clusters);

}  // namespace bench
