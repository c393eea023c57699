// SPDX-License-Identifier: BSD-3-Clause
//
// The checker and the engine, on any file. What the checker finds nothing wrong with, the engine
// opens, reads, recovers and writes: every snapshot shows afterwards what it showed before, and the
// checker finds nothing again. A repair ends; what it calls repaired is as good as that, and shows
// what it showed; what it refuses it does not touch.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/patched_image.h"
#include "tests/fuzz/read_image.h"
#include "tests/fuzz/session.h"

using fuzz::require;
using pcow::Code;

namespace {

// Nothing when the file cannot be checked.
std::optional<pcow::CheckReport> check(const fuzz::ImageFile& file) {
  auto report = pcow::check_image(file.path(), false, {});
  if (!report) {
    const Code code = report.error().code;
    // A file that a stripe set names need not be there, or be another one.
    const bool named =
        file.content().striping.files > 1 && (code == Code::kNotFound || code == Code::kInvalid);
    require(named || code == Code::kForeign || code == Code::kUnsupported,
            "a file that cannot be checked is at fault: " + report.error().message);
    return std::nullopt;
  }
  require((report->corruptions == 0 && report->leaked_bytes == 0) || !report->messages.empty(),
          "what is wrong is explained");
  return *std::move(report);
}

std::string first_message(const pcow::CheckReport& report) {
  return report.messages.empty() ? "" : report.messages.front();
}

// On a copy of the file.
void check_repair(const fuzz::ImageInput& input, const pcow::CheckReport& before) {
  const fuzz::ImageFile file(fuzz::patch_template(input));
  const fuzz::Pages pages = file.content().pages;
  std::optional<fuzz::Views> views;
  if (before.corruptions == 0) views = fuzz::read_views(file.path());
  const auto what = (input.choice() & 1) != 0 ? pcow::Repair::kAll : pcow::Repair::kLeaks;
  const auto report = pcow::repair_image(file.path(), what, {});
  if (!report) {
    const Code code = report.error().code;
    require(before.corruptions > 0 || code == Code::kPermission,
            "a sound image can be repaired: " + report.error().message);
    return;
  }
  require(before.corruptions > 0 || report->refused.empty(), "a sound image is not refused");
  if (!report->refused.empty()) {
    require(report->recovered || file.content().pages == pages, "what is refused is not touched");
    return;
  }
  const auto after = check(file);
  require(after && after->corruptions == 0 && after->leaked_bytes == 0 && after->clean,
          "what is repaired is sound: " + (after ? first_message(*after) : ""));
  const fuzz::Views now = fuzz::read_views(file.path());
  require(!views || now == *views, "a repair changes nothing that anybody sees");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::ImageInput input = fuzz::decode({data, size});
  const fuzz::ImageFile file(fuzz::patch_template(input));
  const auto before = check(file);
  if (!before) return 0;
  check_repair(input, *before);
  if (before->corruptions > 0) return 0;
  fuzz::Views wanted = fuzz::read_views(file.path());
  fuzz::write_session(file.path(), input.choice(), wanted);
  const auto after = check(file);
  require(after.has_value(), "what was checked before can be checked");
  require(after->corruptions == 0, "a writer leaves a sound image sound: " + first_message(*after));
  require(after->clean && after->log_records == 0, "a closed image is clean");
  require(after->leaked_bytes <= before->leaked_bytes,
          "a writer leaves no space behind that nothing owns: " + first_message(*after));
  const fuzz::Views views = fuzz::read_views(file.path());
  require(views.size() == wanted.size() + (wanted.contains("") ? 0 : 1),
          "only snapshots that were deleted are gone");
  for (const auto& [name, content] : wanted) {
    const auto view = views.find(name);
    require(view != views.end() && view->second == content, "'" + name + "' shows what it showed");
  }
  return 0;
}
