// SPDX-License-Identifier: BSD-3-Clause
//
// The verbs of pcow-img, one file each, and what several of them need.
#pragma once

#include <pcow/image.h>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/common/failure.h"

namespace tools {
class Arguments;
}

namespace pcow_img {

// Exit codes of `check`, the numbers of qemu-img. Verbs with no codes here know 0 and 1 only.
inline constexpr int kCheckOk = 0;
inline constexpr int kCheckError = 1;  // the check could not be done
inline constexpr int kCheckCorrupt = 2;
inline constexpr int kCheckLeaks = 3;         // wasted space, no harm to data
inline constexpr int kCheckUnsupported = 63;  // not an image of a format this program can check

// Exit codes of `compare`: no error may end with 1.
inline constexpr int kCompareSame = 0;
inline constexpr int kCompareDifferent = 1;
inline constexpr int kCompareError = 2;

int run_create(const std::vector<std::string>& args);
int run_info(const std::vector<std::string>& args);
int run_check(const std::vector<std::string>& args);
int run_map(const std::vector<std::string>& args);
int run_resize(const std::vector<std::string>& args);
int run_discard(const std::vector<std::string>& args);
int run_convert(const std::vector<std::string>& args);
int run_compare(const std::vector<std::string>& args);
int run_measure(const std::vector<std::string>& args);
int run_bench(const std::vector<std::string>& args);
int run_snapshot(const std::vector<std::string>& args);
int run_rebase(const std::vector<std::string>& args);
int run_scrub(const std::vector<std::string>& args);
int run_commit(const std::vector<std::string>& args);

// What whoever runs a command that reads images agrees to.
struct Consent {
  bool allow_base = false;   // files that an image names are read as well
  bool force_share = false;  // what is read may be changing
};
// The options for it, the same in all commands. `use`: what -U is good for, "Read an image that is
// in use".
void add_consent_options(tools::Arguments& arguments, Consent* consent, const std::string& use);
void add_allow_base_option(tools::Arguments& arguments, bool* allow_base);
pcow::BaseAccess base_access(bool allow_base);

// Opens an image, or a snapshot of it unless that is empty: read-only, an unclean one as its
// committed log leaves it. The first for what needs no base, which is not opened then; the second
// for reading guest memory: an image with a base is refused without consent. Throw tools::Failure.
std::unique_ptr<pcow::Image> open_to_describe(const std::string& file, bool force_share);
std::unique_ptr<pcow::Image> open_for_reading(const std::string& file, const Consent& consent,
                                              const std::string& snapshot = {});

// The virtual size of an image that is about to be changed: what is asked for can be refused before
// the file is written to. Throws tools::Failure.
uint64_t current_size(const std::string& file);
// Opens an image to change it. Unless `quiet` a note says that it had to be recovered.
std::unique_ptr<pcow::Image> open_for_changing(const std::string& file, bool quiet,
                                               pcow::BaseAccess base);
// What -b and -F ask for; nothing without -b.
std::optional<pcow::Base> parse_base(const std::string& path, const std::string& format);

// The options for a stripe set, the same in all commands that make one; `first` is what they call
// its first file. And the unit that they ask for, 0 without one.
void add_stripe_options(tools::Arguments& arguments, const std::string& first,
                        std::vector<std::string>* stripe, std::string* unit);
uint64_t parse_stripe_unit(const std::string& text);
// Whether there is something of this name, if only a link to nowhere.
bool is_there(const std::string& file);
// The value of a call that creates the image `file`; the message names --force if that would help.
// What exists may be a member of a stripe set, too: only those of an image that is replaced are.
template <typename T>
T created_or_fail(pcow::Result<T> result, const std::string& file, bool force) {
  if (!result && result.error().code == pcow::Code::kExists && !force && is_there(file)) {
    throw tools::Failure(result.error().message + "\nUse --force to replace it");
  }
  return tools::value_or_fail(std::move(result));
}

// "vm.pcow is in use ...": the message of `error`, with the option of this program that helps.
std::string message_with_option(const pcow::Error& error);
// The same where -U is not possible.
std::string message_with_allow_base(const pcow::Error& error);

// A size argument in bytes. Throws tools::UsageError naming `what`.
uint64_t parse_size_argument(const std::string& what, const std::string& text);

// Throws tools::Failure unless an image can have this virtual size; `doing` begins the message:
// "cannot create 'vm.pcow'".
void check_virtual_size(const std::string& doing, uint64_t size);

}  // namespace pcow_img
