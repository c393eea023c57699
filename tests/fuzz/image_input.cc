// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/image_input.h"

#include <algorithm>

namespace fuzz {
namespace {

// Reads zeros beyond the end.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : rest_(bytes) {}

  bool empty() const { return rest_.empty(); }

  uint32_t number(size_t width) {
    uint32_t value = 0;
    for (size_t n = 0; n < width && n < rest_.size(); ++n) value |= uint32_t{rest_[n]} << (8 * n);
    rest_ = rest_.subspan(std::min(width, rest_.size()));
    return value;
  }
  uint8_t byte() { return static_cast<uint8_t>(number(1)); }

  std::vector<uint8_t> bytes() {
    const size_t length = byte() % kPatchBytesMax + 1;
    const auto part = rest_.first(std::min(length, rest_.size()));
    rest_ = rest_.subspan(part.size());
    std::vector<uint8_t> out(part.begin(), part.end());
    out.resize(length);
    return out;
  }

 private:
  std::span<const uint8_t> rest_;
};

void append(std::vector<uint8_t>& out, uint32_t value, size_t width) {
  for (size_t n = 0; n < width; ++n) out.push_back(static_cast<uint8_t>(value >> (8 * n)));
}

Patch read_patch(Reader& reader) {
  Patch patch;
  patch.kind = static_cast<Patch::Kind>(reader.byte() % kPatchKinds);
  switch (patch.kind) {
    case Patch::Kind::kBytes:
    case Patch::Kind::kZeroPage:
    case Patch::Kind::kCopyPage:
      patch.page = reader.byte();
      break;
    case Patch::Kind::kAnywhere:
    case Patch::Kind::kFileSize:
      patch.place = reader.number(4);
      break;
  }
  if (patch.kind == Patch::Kind::kCopyPage) patch.to = reader.byte();
  if (patch.kind == Patch::Kind::kBytes || patch.kind == Patch::Kind::kAnywhere) {
    patch.offset = static_cast<uint16_t>(reader.number(2));
    patch.bytes = reader.bytes();
  }
  return patch;
}

void write_patch(const Patch& patch, std::vector<uint8_t>& out) {
  append(out, static_cast<uint32_t>(patch.kind), 1);
  switch (patch.kind) {
    case Patch::Kind::kBytes:
    case Patch::Kind::kZeroPage:
    case Patch::Kind::kCopyPage:
      append(out, patch.page, 1);
      break;
    case Patch::Kind::kAnywhere:
    case Patch::Kind::kFileSize:
      append(out, patch.place, 4);
      break;
  }
  if (patch.kind == Patch::Kind::kCopyPage) append(out, patch.to, 1);
  if (patch.kind == Patch::Kind::kBytes || patch.kind == Patch::Kind::kAnywhere) {
    append(out, patch.offset, 2);
    append(out, static_cast<uint32_t>(patch.bytes.size() - 1), 1);
    out.insert(out.end(), patch.bytes.begin(), patch.bytes.end());
  }
}

}  // namespace

ImageInput decode(std::span<const uint8_t> bytes) {
  Reader reader(bytes);
  ImageInput input;
  input.template_number = reader.byte();
  input.flags = reader.byte();
  while (!reader.empty()) input.patches.push_back(read_patch(reader));
  return input;
}

std::vector<uint8_t> encode(const ImageInput& input) {
  std::vector<uint8_t> out = {input.template_number, input.flags};
  for (const Patch& patch : input.patches) write_patch(patch, out);
  return out;
}

}  // namespace fuzz
