// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/qemu_img.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "pcow/media/file.h"
#include "tools/common/capture.h"
#include "tools/common/failure.h"

namespace pcow_img {
namespace {

namespace fs = std::filesystem;

bool is_program(const fs::path& path) { return access(path.c_str(), X_OK) == 0; }

// Not by a stream, which ends where memory does.
std::string find_program() {
  const char* const path = std::getenv("PATH");
  std::string_view folders = path == nullptr ? "" : path;
  while (!folders.empty()) {
    const std::string_view folder = folders.substr(0, folders.find(':'));
    folders.remove_prefix(std::min(folder.size() + 1, folders.size()));
    if (!folder.empty() && is_program(fs::path(folder) / "qemu-img")) {
      return (fs::path(folder) / "qemu-img").string();
    }
  }
  std::error_code error;
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path() / "qemu-img";
  return is_program(here) ? here.string() : std::string();
}

// A name that qemu-img takes as a file whatever is in it ("nbd:…" is another protocol).
std::string plain(const std::string& file) { return "file:" + file; }

// The files and signals that the child begins with.
struct SpawnSettings {
  SpawnSettings(int output, int errors, const sigset_t& mask) {
    // What is not set up is all zero, and can be destroyed.
    for (const int result :
         {posix_spawn_file_actions_init(&actions), posix_spawnattr_init(&attributes),
          posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0),
          posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO),
          posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO),
          posix_spawnattr_setsigmask(&attributes, &mask),
          posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK)}) {
      if (error == 0) error = result;
    }
  }
  ~SpawnSettings() {
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
  int error = 0;
};

pid_t spawn(const std::string& program, const std::vector<std::string>& arguments, int output,
            int errors, const sigset_t& mask) {
  std::vector<char*> words = {const_cast<char*>(program.c_str())};
  for (const std::string& word : arguments) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_t child = -1;
  const SpawnSettings settings(output, errors, mask);
  const int error = settings.error != 0 ? settings.error
                                        : posix_spawn(&child, program.c_str(), &settings.actions,
                                                      &settings.attributes, words.data(), environ);
  if (error != 0) {
    throw tools::Failure(pcow::errno_error(error, "cannot run '" + program + "'").message);
  }
  return child;
}

// Its exit status as of waitpid(2). A signal to this program ends the child too.
int wait_for(pid_t child, const tools::SignalHold& hold) {
  const int handle = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  if (handle >= 0) {
    if (!hold.wait_readable(handle)) kill(child, SIGTERM);
    close(handle);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno == EINTR) continue;
    throw tools::Failure(pcow::errno_error(errno, "cannot wait for qemu-img").message);
  }
  return status;
}

// "qemu-img: Could not open …" without the name of the program.
std::string complaint(std::string text, const std::string& file) {
  constexpr std::string_view kName = "qemu-img: ";
  if (text.starts_with(kName)) text.erase(0, kName.size());
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.empty() ? "it ended without a message, at '" + file + "'" : text;
}

// As every image: guest memory is its owner's only. qemu-img writes into a file that is there.
void create_private(const std::string& file) {
  tools::value_or_fail(pcow::File::open(file, pcow::File::Mode::kCreate));
}

std::string text_at(const nlohmann::json& info, const nlohmann::json::json_pointer& where) {
  return info.is_object() && info.contains(where) && info[where].is_string()
             ? info[where].get<std::string>()
             : std::string();
}

}  // namespace

QemuImg::QemuImg(const std::string& format, const tools::SignalHold& hold)
    : format_(format), hold_(hold), program_(find_program()) {
  if (!program_.empty()) return;
  throw tools::Failure("the format '" + format +
                       "' needs the program qemu-img: install Debian's package qemu-utils");
}

std::string QemuImg::run(const std::vector<std::string>& arguments) const {
  const tools::Capture output("qemu-img");
  const tools::Capture errors("qemu-img");
  const int status =
      wait_for(spawn(program_, arguments, output.fd(), errors.fd(), hold_.previous()), hold_);
  if (hold_.pending()) throw tools::Failure("interrupted; nothing was created");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw tools::Failure("qemu-img " + arguments.front() + ": " +
                         complaint(errors.text(), arguments.back()));
  }
  return output.text();
}

void QemuImg::unpack(const std::string& image, const std::string& raw, bool force_share) const {
  std::vector<std::string> look = {"info", "--output=json", "-f", format_};
  std::vector<std::string> convert = {"convert", "-f", format_, "-O", "raw"};
  if (force_share) {
    look.emplace_back("-U");
    convert.emplace_back("-U");
  }
  look.push_back(plain(image));
  refuse_references(image, run(look));
  convert.push_back(plain(image));
  convert.push_back(plain(raw));
  create_private(raw);
  run(convert);
}

// `description`: by qemu-img info. What describes it is gone before any file is there.
void QemuImg::refuse_references(const std::string& image, const std::string& description) const {
  const auto info = nlohmann::json::parse(description, nullptr, /*allow_exceptions=*/false);
  // What it refers to is not known then.
  if (!info.is_object()) {
    throw tools::Failure("qemu-img info: '" + image + "' was not described in JSON");
  }
  for (const char* where : {"/backing-filename", "/format-specific/data/data-file"}) {
    const std::string other = text_at(info, nlohmann::json::json_pointer(where));
    if (other.empty()) continue;
    throw tools::Failure("'" + image + "' refers to another file, '" + other +
                         "', which is not followed\nIf you trust it, make an image of its own "
                         "first: qemu-img convert -f " +
                         format_ + " -O " + format_ + " FILE NEW_FILE");
  }
}

void QemuImg::pack(const std::string& raw, const std::string& image) const {
  create_private(image);
  run({"convert", "-f", "raw", "-O", format_, plain(raw), plain(image)});
}

}  // namespace pcow_img
