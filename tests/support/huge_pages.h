// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace test {

// Whether this host has what huge chunks need, found by other means than the library's: a page of
// 2 MiB for who asks for one, and a kernel that moves it.
bool host_makes_huge_chunks();

}  // namespace test
