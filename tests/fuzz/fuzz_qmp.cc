// SPDX-License-Identifier: BSD-3-Clause
//
// Anything that may be at the other end of tierctl's socket: the input is all that it sends.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "tests/fuzz/fuzz.h"
#include "tests/support/temp_dir.h"
#include "tools/common/failure.h"
#include "tools/tierctl/metrics_text.h"
#include "tools/tierctl/nodes.h"
#include "tools/tierctl/qmp_client.h"
#include "tools/tierctl/status_table.h"
#include "tools/tierctl/top_table.h"

using fuzz::require;

namespace {

class Server {
 public:
  Server() : path_(dir_.file("qmp")), listener_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(static_cast<char*>(address.sun_path), path_.c_str(), path_.size() + 1);
    require(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
                listen(listener_, 1) == 0,
            "a socket can be made");
  }
  ~Server() { close(listener_); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const std::string& path() const { return path_; }

  // Sends `bytes` to the next client and takes whatever it says, until it leaves.
  void serve(const uint8_t* bytes, size_t size) const {
    const int client = accept(listener_, nullptr, nullptr);
    while (size > 0) {
      const ssize_t n = send(client, bytes, size, MSG_NOSIGNAL);
      if (n <= 0) break;
      bytes += n;
      size -= static_cast<size_t>(n);
    }
    shutdown(client, SHUT_WR);
    std::array<char, 1024> ignored;
    while (read(client, ignored.data(), ignored.size()) > 0) {
    }
    close(client);
  }

 private:
  const test::TempDir dir_;
  const std::string path_;
  const int listener_;
};

void talk(const std::string& path) {
  constexpr std::chrono::milliseconds kTimeout{5000};
  auto client = tierctl::QmpClient::connect(path, kTimeout);
  if (!client) return;
  const auto all = client->execute("query-pcow", tierctl::Json::object(), kTimeout);
  if (!all) return;
  if (const auto nodes = tierctl::select_nodes(*all, "")) {
    require(!tierctl::status_table(*nodes).empty() || nodes->empty(), "nodes have a table");
    try {
      require(tierctl::metrics_text(*nodes).ends_with("# EOF\n"), "metrics end");
    } catch (const tools::Failure&) {
    }
    const auto later = client->execute("query-pcow", tierctl::Json::object(), kTimeout);
    const auto then = later ? tierctl::select_nodes(*later, "") : nodes;
    if (then) {
      const auto activity = tierctl::activity_of(*nodes, *then, std::chrono::seconds(1));
      const std::string lines = tierctl::top_lines(activity);
      require(static_cast<size_t>(std::ranges::count(lines, '\n')) == activity.size(),
              "a line for each");
    }
  }
  (void)tierctl::select_nodes(*all, "pm0");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Server kServer;
  std::thread thread([data, size] { kServer.serve(data, size); });
  talk(kServer.path());
  thread.join();
  return 0;
}
