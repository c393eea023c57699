// SPDX-License-Identifier: BSD-3-Clause
//
// Copies past the caches, by non-temporal stores (Intel SDM, volume 1, 10.4.6.2): for what is not
// read again soon, at half the traffic to memory. Where the processor has none, a plain copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace pcow {

// memcpy(3) of the C library, whatever the length. For one that it knows to be a page, GCC makes a
// `rep movs`, and nothing behind that begins before it is done.
inline void copy_by_library(std::byte* to, std::span<const std::byte> from) {
  size_t length = from.size();
  asm("" : "+r"(length));
  std::memcpy(to, from.data(), length);
}

// Other threads see it in order only after stream_fence().
inline void stream_copy(std::byte* to, std::span<const std::byte> from) {
#ifdef __SSE2__
  constexpr size_t kStep = sizeof(__m128i);
  if (reinterpret_cast<uintptr_t>(to) % kStep == 0 && from.size() % kStep == 0) {
    for (size_t at = 0; at < from.size(); at += kStep) {
      const __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from.data() + at));
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + at), part);
    }
    return;
  }
#endif
  std::memcpy(to, from.data(), from.size());
}

inline void stream_fence() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace pcow
