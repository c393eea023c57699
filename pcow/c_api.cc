// SPDX-License-Identifier: BSD-3-Clause
//
// The C boundary: converts results, lets no exception out.
#include <pcow/image.h>
#include <pcow/pcow.h>
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <span>

struct pcow_image {
  std::unique_ptr<pcow::Image> image;
};

namespace {

static_assert(PCOW_E_INVALID - static_cast<int>(pcow::Code::kInternal) == PCOW_E_INTERNAL);
static_assert(PCOW_E_INVALID - static_cast<int>(pcow::Code::kLogFull) == PCOW_E_LOG_FULL);

int fail(const pcow::Error& error, pcow_error* err) {
  const int code = PCOW_E_INVALID - static_cast<int>(error.code);
  if (err != nullptr) {
    err->code = code;
    err->sys_errno = error.sys_errno;
    const size_t length = std::min(error.message.size(), sizeof(err->message) - 1);
    std::memcpy(err->message, error.message.data(), length);
    err->message[length] = '\0';
  }
  return code;
}

// Runs `body`, which returns a Result<void>, and reports it the C way.
template <typename Body>
int guarded(pcow_error* err, const Body& body) {
  try {
    const pcow::Result<void> result = body();
    return result ? PCOW_OK : fail(result.error(), err);
  } catch (const std::bad_alloc&) {
    return fail(pcow::make_error(pcow::Code::kNoMemory, "out of memory"), err);
  } catch (const std::exception& e) {
    return fail(pcow::make_error(pcow::Code::kInternal, e.what()), err);
  }
}

// The smallest struct_size there ever was: up to and with `overwrite`.
constexpr size_t kFirstCreateOptions =
    offsetof(pcow_create_options, overwrite) + sizeof(pcow_create_options::overwrite);

// The options as this version knows them, of a caller who may have been compiled with another one.
pcow::Result<pcow_create_options> known_part(const pcow_create_options* given) {
  const size_t size = given->struct_size;
  const auto invalid = [](const std::string& what) {
    return pcow::make_error(pcow::Code::kInvalid, "pcow_create_options: " + what);
  };
  if (size < kFirstCreateOptions) return invalid("struct_size is not set");
  // A size that is no such thing must not lead astray.
  constexpr size_t kSizeMax = 4096;
  if (size > kSizeMax) return invalid("struct_size is impossible");
  const std::span bytes(reinterpret_cast<const std::byte*>(given), size);
  const size_t known = std::min(size, sizeof(pcow_create_options));
  const auto is_set = [](std::byte byte) { return byte != std::byte{0}; };
  if (std::ranges::any_of(bytes.subspan(known), is_set)) {
    return invalid("an option is set that this version of the library does not know");
  }
  pcow_create_options options{};
  std::memcpy(&options, bytes.data(), known);
  return options;
}

pcow::Result<pcow::CreateOptions> create_options(const pcow_create_options& from) {
  if (from.base_is_raw > 1 || from.overwrite > 1) {
    return pcow::make_error(pcow::Code::kInvalid,
                            "pcow_create_options: base_is_raw and overwrite are 0 or 1");
  }
  pcow::CreateOptions options;
  options.virtual_size = from.virtual_size_bytes;
  options.log_size = from.log_size_bytes;
  options.overwrite = from.overwrite != 0;
  if (from.base_path != nullptr) {
    const auto format = from.base_is_raw != 0 ? pcow::BaseFormat::kRaw : pcow::BaseFormat::kPcow;
    options.base = pcow::Base{from.base_path, format};
  }
  options.stripe.assign(from.stripe_paths, from.stripe_paths + from.stripe_path_count);
  options.stripe_unit = from.stripe_unit_bytes;
  return options;
}

}  // namespace

int pcow_create(const char* path, uint64_t virtual_size_bytes, uint64_t log_size_bytes,
                pcow_error* err) {
  return pcow_create_on_base(path, nullptr, false, virtual_size_bytes, log_size_bytes, err);
}

int pcow_create_on_base(const char* path, const char* base_path, bool base_is_raw,
                        uint64_t virtual_size_bytes, uint64_t log_size_bytes, pcow_error* err) {
  pcow_create_options options{};
  options.struct_size = sizeof(options);
  options.virtual_size_bytes = virtual_size_bytes;
  options.log_size_bytes = log_size_bytes;
  options.base_path = base_path;
  options.base_is_raw = base_is_raw ? 1 : 0;
  return pcow_create_with(path, &options, err);
}

int pcow_create_with(const char* path, const pcow_create_options* options, pcow_error* err) {
  return guarded(err, [&]() -> pcow::Result<void> {
    PCOW_TRY_ASSIGN(const pcow_create_options known, known_part(options));
    PCOW_TRY_ASSIGN(const pcow::CreateOptions wanted, create_options(known));
    return pcow::Image::create(path, wanted);
  });
}

int pcow_open(const char* path, unsigned flags, pcow_image** out, pcow_error* err) {
  *out = nullptr;
  return guarded(err, [&]() -> pcow::Result<void> {
    if ((flags & ~unsigned{PCOW_OPEN_WRITABLE | PCOW_OPEN_ALLOW_BASE}) != 0) {
      return pcow::make_error(pcow::Code::kInvalid, "pcow_open: unknown flags");
    }
    const bool writable = (flags & PCOW_OPEN_WRITABLE) != 0;
    const bool allow_base = (flags & PCOW_OPEN_ALLOW_BASE) != 0;
    pcow::OpenOptions options;
    options.access = writable ? pcow::Access::kReadWrite : pcow::Access::kReadOnly;
    options.base = allow_base ? pcow::BaseAccess::kFollow : pcow::BaseAccess::kRefuse;
    PCOW_TRY_ASSIGN(auto image, pcow::Image::open(path, options));
    *out = new pcow_image{std::move(image)};
    return {};
  });
}

int pcow_close(pcow_image* image, pcow_error* err) {
  return guarded(err, [&] { return image->image->close(); });
}

void pcow_free(pcow_image* image) { delete image; }

int pcow_get_info(const pcow_image* image, pcow_info* info, pcow_error* err) {
  return guarded(err, [&]() -> pcow::Result<void> {
    if (info->struct_size != sizeof(*info)) {
      return pcow::make_error(pcow::Code::kInvalid, "pcow_info: struct_size is not set");
    }
    const pcow::ImageInfo from = image->image->info();
    if (from.error) return *from.error;
    info->format_version = from.format_version;
    std::memcpy(info->uuid, from.uuid.c_str(), std::min(from.uuid.size() + 1, sizeof(info->uuid)));
    info->virtual_size_bytes = from.virtual_size;
    info->allocated_bytes = from.allocated_bytes;
    info->disk_bytes = from.disk_bytes;
    info->committed_epoch = from.committed_epoch.value;
    info->clean = from.clean;
    return {};
  });
}

int pcow_read(const pcow_image* image, uint64_t offset, void* out, size_t length, pcow_error* err) {
  return guarded(err, [&] {
    return image->image->read(offset, std::span(static_cast<std::byte*>(out), length));
  });
}

int pcow_write_pages(pcow_image* image, const pcow_page_write* pages, size_t count,
                     pcow_error* err) {
  return guarded(err, [&]() -> pcow::Result<void> {
    std::vector<pcow::PageWrite> writes(count);
    std::transform(pages, pages + count, writes.begin(), [](const pcow_page_write& page) {
      return pcow::PageWrite{pcow::PageIndex(page.page), static_cast<const std::byte*>(page.data)};
    });
    PCOW_TRY(image->image->write_pages(writes));
    return {};
  });
}

int pcow_commit(pcow_image* image, uint64_t* epoch, pcow_error* err) {
  return guarded(err, [&]() -> pcow::Result<void> {
    PCOW_TRY_ASSIGN(const pcow::Epoch now, image->image->commit());
    if (epoch != nullptr) *epoch = now.value;
    return {};
  });
}

int pcow_snapshot_list(const pcow_image* image,
                       bool (*fn)(const pcow_snapshot* snapshot, void* context), void* context,
                       pcow_error* err) {
  return guarded(err, [&]() -> pcow::Result<void> {
    PCOW_TRY_ASSIGN(const std::vector<pcow::SnapshotInfo> snapshots, image->image->snapshots());
    for (const pcow::SnapshotInfo& from : snapshots) {
      const pcow_snapshot snapshot = {from.name.c_str(), from.id.value,        from.created_ns,
                                      from.virtual_size, from.allocated_bytes, from.epoch.value};
      if (!fn(&snapshot, context)) break;
    }
    return {};
  });
}

int pcow_snapshot_create(pcow_image* image, const char* name, pcow_error* err) {
  return guarded(err, [&] { return image->image->create_snapshot(name); });
}

int pcow_snapshot_delete(pcow_image* image, const char* name, pcow_error* err) {
  return guarded(err, [&] { return image->image->delete_snapshot(name); });
}

int pcow_snapshot_apply(pcow_image* image, const char* name, pcow_error* err) {
  return guarded(err, [&] { return image->image->apply_snapshot(name); });
}
