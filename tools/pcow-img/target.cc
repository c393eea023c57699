// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/target.h"

#include <pcow/new_image.h>

#include "tools/common/failure.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/new_file.h"
#include "tools/pcow-img/qemu_img.h"

namespace pcow_img {
namespace {

// An image cannot be created without a size. Its writer makes it larger, or smaller in the end.
constexpr uint64_t kFirstSize = pcow::kGiB;

class PcowTarget : public Target {
 public:
  explicit PcowTarget(const TargetRequest& request)
      : file_(request.file), image_(planned(request)) {}

  std::unique_ptr<Writer> create(uint64_t size) override {
    return make_pcow_writer(tools::value_or_fail(image_.create(size == 0 ? kFirstSize : size)),
                            file_);
  }
  void publish() override { tools::value_or_fail(image_.publish()); }

 private:
  static pcow::NewImage planned(const TargetRequest& request) {
    pcow::CreateOptions options;
    options.overwrite = request.overwrite;
    options.stripe = request.stripe;
    options.stripe_unit = request.stripe_unit;
    return created_or_fail(pcow::NewImage::plan(request.file, options), request.file,
                           request.overwrite);
  }

  const std::string file_;
  pcow::NewImage image_;
};

class RawTarget : public Target {
 public:
  explicit RawTarget(const TargetRequest& request) : file_(request.file, request.overwrite) {}

  std::unique_ptr<Writer> create(uint64_t size) override {
    return create_raw_writer(file_.path(), size);
  }
  void publish() override { file_.publish(); }

 private:
  NewFile file_;
};

// Goes through a raw file that qemu-img packs.
class PackedTarget : public Target {
 public:
  PackedTarget(const TargetRequest& request, const tools::SignalHold& hold)
      : file_(request.file, request.overwrite), raw_(request.file), qemu_(request.format, hold) {}

  std::unique_ptr<Writer> create(uint64_t size) override {
    return create_raw_writer(raw_.path(), size);
  }
  void publish() override {
    qemu_.pack(raw_.path(), file_.path());
    file_.publish();
  }

 private:
  NewFile file_;
  const ScratchFile raw_;
  const QemuImg qemu_;
};

// What an image may not replace, a file of another format may not: a member of a stripe set.
void check_replaced(const std::string& file) {
  pcow::CreateOptions options;
  options.overwrite = true;
  tools::value_or_fail(pcow::NewImage::plan(file, options));
}

}  // namespace

std::unique_ptr<Target> plan_target(const TargetRequest& request, const tools::SignalHold& hold) {
  if (request.format == "pcow") return std::make_unique<PcowTarget>(request);
  if (request.overwrite) check_replaced(request.file);
  if (request.format == "raw") return std::make_unique<RawTarget>(request);
  return std::make_unique<PackedTarget>(request, hold);
}

}  // namespace pcow_img
