// SPDX-License-Identifier: BSD-3-Clause
//
// qemu-img(1), for the formats that only it knows. Errors are thrown as tools::Failure.
#pragma once

#include <string>
#include <vector>

#include "tools/common/signal_hold.h"

namespace pcow_img {

class QemuImg {
 public:
  // Finds the program: in PATH, or beside this one. `format` is what it is needed for.
  QemuImg(const std::string& format, const tools::SignalHold& hold);

  // Writes the guest memory that `image` holds to `raw`, sparsely. An image that refers to other
  // files (a backing file, a data file) is refused: they may be anyone's.
  void unpack(const std::string& image, const std::string& raw, bool force_share) const;
  // Writes `raw` to a new image.
  void pack(const std::string& raw, const std::string& image) const;

 private:
  // The last of the arguments is a file.
  std::string run(const std::vector<std::string>& arguments) const;
  void refuse_references(const std::string& image, const std::string& description) const;

  const std::string format_;
  const tools::SignalHold& hold_;
  std::string program_;
};

}  // namespace pcow_img
