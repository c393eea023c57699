// SPDX-License-Identifier: BSD-3-Clause
#include <numa-policy/placement.h>
#include <numa.h>
#include <numaif.h>
#include <array>
#include <cerrno>
#include <climits>
#include <string>

namespace numa {
namespace {

using pcow::Code;
using pcow::make_error;

// <numaif.h> of libnuma 2.0.16 lacks it (Linux 5.15).
constexpr int kPreferredMany = 5;
constexpr size_t kBitsPerWord = sizeof(unsigned long) * CHAR_BIT;

std::string_view policy_name(Policy policy) {
  constexpr std::array<std::string_view, 4> kNames = {"default", "preferred", "bind", "interleave"};
  return kNames.at(static_cast<size_t>(policy));
}

std::string node_list(const std::vector<unsigned>& nodes) {
  std::string text;
  for (const unsigned node : nodes) {
    if (!text.empty()) text += ',';
    text += std::to_string(node);
  }
  return text;
}

std::string describe(const Placement& placement) {
  return "policy=" + std::string(policy_name(placement.policy)) +
         (placement.nodes.empty() ? "" : ", host-nodes=" + node_list(placement.nodes));
}

int kernel_mode(const Placement& placement) {
  switch (placement.policy) {
    case Policy::kPreferred:
      return placement.nodes.size() > 1 ? kPreferredMany : MPOL_PREFERRED;
    case Policy::kBind:
      return MPOL_BIND;
    case Policy::kInterleave:
      return MPOL_INTERLEAVE;
    case Policy::kDefault:
      break;
  }
  return MPOL_DEFAULT;
}

// The node mask as mbind(2) wants it.
std::vector<unsigned long> node_mask(const std::vector<unsigned>& nodes) {
  std::vector<unsigned long> mask;
  for (const unsigned node : nodes) {
    const size_t word = node / kBitsPerWord;
    if (mask.size() <= word) mask.resize(word + 1);
    mask[word] |= 1UL << (node % kBitsPerWord);
  }
  return mask;
}

}  // namespace

pcow::Result<void> validate(const Placement& placement) {
  if (placement.policy == Policy::kDefault) {
    if (placement.nodes.empty()) return {};
    return make_error(Code::kInvalid, "host-nodes=" + node_list(placement.nodes) +
                                          " needs a policy: add policy=bind, preferred or "
                                          "interleave, or leave host-nodes out");
  }
  if (placement.nodes.empty()) {
    return make_error(Code::kInvalid, "policy=" + std::string(policy_name(placement.policy)) +
                                          " needs nodes: add host-nodes=N");
  }
  if (numa_available() < 0) {
    return make_error(Code::kUnsupported, describe(placement) +
                                              ": the kernel of this host has no NUMA support; "
                                              "leave policy and host-nodes out");
  }
  // Nodes that have memory and that this process may use (cpuset).
  bitmask* usable = numa_get_mems_allowed();
  std::vector<unsigned> bad;
  std::vector<unsigned> good;
  for (unsigned node = 0; node < usable->size; ++node) {
    if (numa_bitmask_isbitset(usable, node) != 0) good.push_back(node);
  }
  for (const unsigned node : placement.nodes) {
    if (node >= usable->size || numa_bitmask_isbitset(usable, node) == 0) bad.push_back(node);
  }
  numa_bitmask_free(usable);
  if (bad.empty()) return {};
  return make_error(Code::kInvalid,
                    "host-nodes=" + node_list(placement.nodes) + ": node " + node_list(bad) +
                        " has no memory that this process may use; usable are " + node_list(good));
}

pcow::Result<void> apply(const Placement& placement, void* address, size_t length) {
  const std::vector<unsigned long> mask = node_mask(placement.nodes);
  // The kernel reads maxnode - 1 bits.
  const unsigned long max_node = mask.empty() ? 0 : mask.size() * kBitsPerWord + 1;
  const unsigned long* bits = mask.empty() ? nullptr : mask.data();
  if (mbind(address, length, kernel_mode(placement), bits, max_node, 0) == 0) return {};
  const int error = errno;
  if (error == ENOSYS && placement.policy == Policy::kDefault) return {};
  if (error == EINVAL && placement.policy == Policy::kPreferred && placement.nodes.size() > 1) {
    return make_error(Code::kInvalid, describe(placement) +
                                          ": the kernel is older than 5.15 and takes one "
                                          "preferred node; name one");
  }
  return pcow::errno_error(error, "cannot apply " + describe(placement));
}

}  // namespace numa
