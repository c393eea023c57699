// SPDX-License-Identifier: BSD-3-Clause
//
// Every verb of pcow-img, on files that make it do what it can have to do.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/unit/pcow/fault_world.h"

namespace test {

struct VerbCase {
  std::string name;
  std::string words;  // after "pcow-img", with blanks between them
  // The image that it changes, and how; what failed is as before or as after.
  std::string changes = {};
  std::function<void(Shown&)> effect = [](Shown&) {};
  // It is to put right what the checker calls damage. What failed may have left some of that.
  bool damaged = false;
  // What it makes: the file that the rest belongs to comes last. It is there as a whole, or not (or
  // what it replaces). Of `like`, an image or a raw file.
  std::vector<std::string> makes = {};
  std::string like = {};
  // Files that it may write to besides.
  std::vector<std::string> touches = {};
  std::string input = "/dev/null";
  int error_code = 1;
  bool same_output = true;  // what it prints is the same every time
  bool by_qemu_img = false;
};

std::vector<std::string> words_of(const VerbCase& verb);  // all of the command line
bool have_qemu_img();

// The files that a case begins with: those that its command line names, and `like`.
void make_verb_files(FaultWorld& world, const VerbCase& verb);
const std::vector<VerbCase>& verb_cases();

}  // namespace test
