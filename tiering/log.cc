// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <memory>
#include <mutex>
#include <utility>

namespace tiering {
namespace {

class ListenerSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void set(LogListener listener) {
    const std::lock_guard lock(mutex_);
    listener_.swap(listener);
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (listener_) listener_(message.level, {message.payload.data(), message.payload.size()});
  }
  void flush_() override {}

  LogListener listener_;
};

// Not in spdlog's global registry: the host program may use that for itself.
struct Log {
  std::shared_ptr<ListenerSink> listener = std::make_shared<ListenerSink>();
  spdlog::logger logger{"tiering", {std::make_shared<spdlog::sinks::stderr_sink_mt>(), listener}};

  Log() {
    logger.set_pattern("%n: %l: %v");
    logger.set_level(spdlog::level::warn);
  }
};

Log& the_log() {
  static Log log;
  return log;
}

}  // namespace

spdlog::logger& log() { return the_log().logger; }

void set_log_listener(LogListener listener) { the_log().listener->set(std::move(listener)); }

}  // namespace tiering
