// SPDX-License-Identifier: BSD-3-Clause
//
// Little-endian integers for on-media structures: the size and alignment of the integer, converted
// on access, so that a structure is its own specification on every host.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace pcow {

template <typename T>
class Le {
 public:
  constexpr Le() = default;
  constexpr Le(T value) : raw_(swap(value)) {}         // NOLINT: implicit, it stands for a T
  constexpr operator T() const { return swap(raw_); }  // NOLINT: implicit, it stands for a T

 private:
  static constexpr T swap(T value) {
    if constexpr (std::endian::native == std::endian::little) {
      return value;
    } else {
      T out = 0;
      for (size_t i = 0; i < sizeof(T); ++i) {
        out = static_cast<T>(out << 8 | (value >> (8 * i) & 0xff));
      }
      return out;
    }
  }
  T raw_ = 0;
};

using Le16 = Le<uint16_t>;
using Le32 = Le<uint32_t>;
using Le64 = Le<uint64_t>;

}  // namespace pcow
