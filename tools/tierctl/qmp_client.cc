// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/qmp_client.h"

#include <string_view>

#include "tools/common/json_text.h"

namespace tierctl {
namespace {

using pcow::Code;
using pcow::make_error;

constexpr size_t kNestingMax = 100;
constexpr size_t kEventsMax = 1000;

std::string seconds(std::chrono::milliseconds time) {
  const auto tenths = (time.count() + 99) / 100;
  return std::to_string(tenths / 10) +
         (tenths % 10 != 0 ? "." + std::to_string(tenths % 10) : std::string()) + " s";
}

std::string version_text(const Json& greeting) {
  const Json version = greeting["QMP"].value("version", Json::object());
  if (!version.is_object()) return "unknown";
  const Json qemu = version.value("qemu", Json::object());
  if (!qemu.is_object()) return "unknown";
  const auto part = [&qemu](const char* key) {
    const auto field = qemu.find(key);
    return field != qemu.end() && field->is_number_integer() ? field->get<int64_t>() : 0;
  };
  return std::to_string(part("major")) + "." + std::to_string(part("minor")) + "." +
         std::to_string(part("micro"));
}

bool is_event(const Json& message) { return message.contains("event"); }

std::string text_field(const Json& object, const char* key) {
  const auto field = object.find(key);
  return field != object.end() && field->is_string() ? field->get<std::string>() : std::string();
}

// Copying and printing nested values is recursive: some ten thousand levels overflow the stack.
bool is_nested_too_deep(std::string_view json) {
  size_t depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') quoted = !quoted;
    if (quoted) {
      if (c == '\\') ++i;
    } else if (c == '[' || c == '{') {
      if (++depth > kNestingMax) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

}  // namespace

pcow::Result<QmpClient> QmpClient::connect(const std::string& socket_path,
                                           std::chrono::milliseconds timeout) {
  const Deadline deadline = std::chrono::steady_clock::now() + timeout;
  PCOW_TRY_ASSIGN(auto socket, UnixSocket::connect(socket_path, deadline));
  QmpClient client(std::move(socket), socket_path);
  auto greeting = client.read_message(deadline);
  if (!greeting && greeting.error().code == Code::kBusy) {
    return make_error(Code::kBusy,
                      "no QMP greeting on '" + socket_path + "' within " + seconds(timeout) +
                          ": another client may be connected (QEMU serves one at a time), or QEMU "
                          "hangs; end the other client or raise --timeout");
  }
  PCOW_TRY(greeting);
  if (!greeting->contains("QMP") || !(*greeting)["QMP"].is_object()) {
    return make_error(Code::kForeign, "'" + socket_path +
                                          "' is not a QMP socket: no QMP greeting; use the one "
                                          "that QEMU was given with -qmp");
  }
  client.qemu_version_ = version_text(*greeting);
  PCOW_TRY(client.execute("qmp_capabilities", Json::object(), timeout));
  return client;
}

pcow::Result<Json> QmpClient::execute(const std::string& command, const Json& arguments,
                                      std::chrono::milliseconds timeout) {
  const Deadline deadline = std::chrono::steady_clock::now() + timeout;
  const uint64_t id = next_id_++;
  auto request = Json::object();
  request["execute"] = command;
  if (!arguments.empty()) request["arguments"] = arguments;
  request["id"] = id;
  auto sent = socket_.send(tools::json_text(request, -1) + "\r\n", deadline);
  if (!sent) {
    return socket_error(sent.error());
  }
  while (true) {
    auto message = read_message(deadline);
    if (!message && message.error().code == Code::kBusy) {
      return make_error(Code::kBusy, "QEMU at '" + socket_path_ + "' did not answer '" + command +
                                         "' within " + seconds(timeout) +
                                         "; the command goes on in QEMU: raise --timeout to see "
                                         "its end");
    }
    PCOW_TRY(message);
    if (is_event(*message)) {
      if (events_.size() < kEventsMax) events_.push_back(*std::move(message));
      continue;
    }
    // QEMU repeats the id, except in errors about input that it could not parse.
    const auto answered = message->find("id");
    if (answered != message->end() && *answered != Json(id)) continue;
    if (const auto error = message->find("error"); error != message->end()) {
      return reply_error(command, *error);
    }
    if (const auto value = message->find("return"); value != message->end()) return Json(*value);
  }
}

pcow::Result<Json> QmpClient::next_event() {
  while (events_.empty()) {
    auto message = read_message(std::chrono::steady_clock::now() + std::chrono::hours(24));
    if (!message && message.error().code == Code::kBusy) continue;
    PCOW_TRY(message);
    if (is_event(*message)) return message;
  }
  Json event = std::move(events_.front());
  events_.pop_front();
  return event;
}

// One JSON object. Errors: kBusy (deadline) and, with complete messages, kIo and kForeign.
pcow::Result<Json> QmpClient::read_message(Deadline deadline) {
  auto line = socket_.read_line(deadline);
  if (!line) {
    return line.error().code == Code::kBusy ? line.error() : socket_error(line.error());
  }
  if (is_nested_too_deep(*line)) {
    return make_error(Code::kForeign, "'" + socket_path_ + "' sent JSON that is nested more than " +
                                          std::to_string(kNestingMax) +
                                          " deep, which QEMU never does; use the socket that QEMU "
                                          "was given with -qmp");
  }
  Json message = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
  if (message.is_discarded() || !message.is_object()) {
    return make_error(Code::kForeign, "'" + socket_path_ +
                                          "' is not a QMP socket: it sent something other than "
                                          "JSON objects; use the one that QEMU was given with "
                                          "-qmp");
  }
  return message;
}

pcow::Error QmpClient::socket_error(const pcow::Error& error) const {
  return make_error(error.code, "QEMU at '" + socket_path_ + "': " + error.message +
                                    "; see whether it still runs and what it printed");
}

pcow::Error QmpClient::reply_error(const std::string& command, const Json& error) const {
  const std::string description =
      error.is_object() ? text_field(error, "desc") : std::string("no description");
  const std::string error_class = error.is_object() ? text_field(error, "class") : std::string();
  if (error_class == "CommandNotFound") {
    return make_error(Code::kUnsupported, "QEMU " + qemu_version_ + " at '" + socket_path_ +
                                              "' has no command '" + command +
                                              "': it was built without pcow support, or with "
                                              "an older one; start the guest with the patched "
                                              "QEMU");
  }
  const Code code = error_class == "DeviceNotFound" ? Code::kNotFound : Code::kInvalid;
  return make_error(code, "QEMU refused '" + command + "': " + description);
}

}  // namespace tierctl
