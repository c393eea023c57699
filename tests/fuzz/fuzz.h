// SPDX-License-Identifier: BSD-3-Clause
//
// What every fuzz target is: LLVMFuzzerTestOneInput() in a file of its own, linked with libFuzzer,
// or with replay_main.cc where there is no libFuzzer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

extern "C" {
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed);
}

namespace fuzz {

// Ends the program when a promise of the code under test is broken.
void require(bool kept, const std::string& promise);

}  // namespace fuzz
