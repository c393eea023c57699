// SPDX-License-Identifier: BSD-3-Clause
//
// The QEMU Machine Protocol, client side: greeting, capabilities, one command at a time.
// Specification: docs/interop/qmp-spec in QEMU.
#pragma once

#include <pcow/status.h>
#include <chrono>
#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/tierctl/unix_socket.h"

namespace tierctl {

using Json = nlohmann::ordered_json;

class QmpClient {
 public:
  // Connects and negotiates. Errors: those of UnixSocket::connect(), kBusy (no greeting in time),
  // kForeign (something else listens there), kIo. Messages are complete.
  static pcow::Result<QmpClient> connect(const std::string& socket_path,
                                         std::chrono::milliseconds timeout);

  // Runs a command and returns its "return" value; events that arrive meanwhile are kept for
  // next_event(), the first thousand.
  // Errors: kUnsupported (QEMU does not know the command), kNotFound (the class DeviceNotFound),
  // kInvalid (QEMU refused it: its own words), kBusy (no reply in time), kIo, kForeign.
  pcow::Result<Json> execute(const std::string& command, const Json& arguments,
                             std::chrono::milliseconds timeout);

  // The next event, of any name, however long that takes. Errors: kIo, kForeign.
  pcow::Result<Json> next_event();

 private:
  QmpClient(UnixSocket socket, std::string socket_path)
      : socket_(std::move(socket)), socket_path_(std::move(socket_path)) {}

  pcow::Result<Json> read_message(Deadline deadline);
  pcow::Error socket_error(const pcow::Error& error) const;
  pcow::Error reply_error(const std::string& command, const Json& error) const;

  UnixSocket socket_;
  std::string socket_path_;
  std::string qemu_version_;  // "10.0.2"
  uint64_t next_id_ = 1;
  std::deque<Json> events_;
};

}  // namespace tierctl
