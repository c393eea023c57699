// SPDX-License-Identifier: BSD-3-Clause
//
// A pcow image: thin-provisioned guest memory in a file on byte-addressable memory.
//
// Specification of the bytes: pcow/FORMAT.md. This header is the engine's contract.
//
// Thread-safety: an Image is used by one thread at a time (callers serialise). Different images are
// independent. Ownership: the Image owns its file descriptor; descriptors it hands out are borrowed
// and live as long as it does.
//
// Errors: beside those that each function lists, kNoMemory. When storing metadata or making
// anything durable has failed (mostly kIo), an image takes no further writes: every call that
// would write, and close(), then fails with kIo, reading goes on, and opening it again recovers
// what was committed. After any other failure a call may be repeated.
#pragma once

#include <pcow/image_info.h>
#include <pcow/size_text.h>
#include <pcow/status.h>
#include <pcow/units.h>
#include <algorithm>
#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pcow {

inline constexpr uint64_t kMinVirtualSize = kChunkSize;
inline constexpr uint64_t kMaxVirtualSize = 32 * kTiB;

// What an epoch changes has to fit in the log, and a guest that has more memory changes more.
constexpr uint64_t default_log_size(uint64_t virtual_size) {
  return std::clamp(virtual_size / 16 / kWindowSize * kWindowSize, 64 * kMiB, 256 * kMiB);
}

// What shows through a new image where it holds nothing. Only read, and never changed while images
// are based on it: these refuse a base that was.
struct Base {
  std::string path;  // from the directory of the new image, unless absolute; 1 .. 1023 bytes
  BaseFormat format = BaseFormat::kPcow;
};

struct CreateOptions {
  // Multiple of 2 MiB; 0 with a base: that of the base, rounded up.
  uint64_t virtual_size = 0;
  // Multiple of 2 MiB, 4 MiB .. 256 MiB; sparse. 0: default_log_size(). It may grow later.
  uint64_t log_size = 0;
  bool overwrite = false;  // replace an existing file (never one that is in use)
  std::optional<Base> base = std::nullopt;
  // Other files that the image is striped over, 1, 3, 7 or 15 of them, from its directory unless
  // absolute. The image knows their names alone: one in another directory gets a symbolic link of
  // its name beside the image. An existing one is replaced only with `overwrite`, and only if it is
  // of the set that is replaced.
  std::vector<std::string> stripe = {};
  // Bytes that lie in one file before the next takes its turn: 2 MiB times a power of two, all
  // files together at most 1 GiB; 0: stripe_unit_for().
  uint64_t stripe_unit = 0;
};

// The unit that create() takes for so many files (kMaxStripeFiles at most): a whole image of this
// size can then be mapped within half of what a region may use, if any unit can do that.
uint64_t stripe_unit_for(uint64_t virtual_size, uint64_t files);

enum class Access {
  kReadOnly,   // shared lock; the file is not modified
  kReadWrite,  // exclusive lock; an unclean image is recovered, a deletion that was not finished
               // goes on to its end; any other clean one stays as it is until the first write
};

// What opening does with the base that an image names. An image may come from anywhere, and name
// any file that this process may read as its base: who opens it has to agree.
enum class BaseAccess {
  kRefuse,  // an image with a base is not opened: kPermission
  kIgnore,  // the base is not opened; reading what it shows fails with kPermission
  kFollow,  // it is opened, and so is what it names
};

struct OpenOptions {
  Access access = Access::kReadOnly;
  bool force_share = false;  // read-only without a lock: what is read may be changing
  // Read-only open of an image that was not closed cleanly: false → kNeedsRecovery; true → the
  // committed log is replayed into memory, the file stays as it is.
  bool replay_in_memory = false;
  // Open only an image of this virtual size (kInvalid otherwise).
  std::optional<uint64_t> virtual_size = std::nullopt;
  // Read-only: show the image as this snapshot keeps it.
  std::optional<std::string> snapshot = std::nullopt;
  BaseAccess base = BaseAccess::kRefuse;
  bool although_corrupt = false;  // for writing an image that is marked corrupt: for a repair
  // kReadWrite: a thread may give so many bytes of windows space before they are first written, on
  // media where that pays. What nobody used is given back by close(), or sooner if the medium is
  // full; after a crash by reclaim_unowned(). 0: no thread.
  uint64_t reserve_ahead = 0;
};

using PageMap = std::bitset<kPagesPerChunk>;

// A place in one of the files that an image shows: from 0 on its own, then those of its base, then
// those of the base of that. Each has one file, or those of a stripe set.
struct FilePlace {
  uint32_t file = 0;
  uint64_t offset = 0;  // bytes

  FilePlace operator+(uint64_t bytes) const { return {file, offset + bytes}; }
  bool operator==(const FilePlace&) const = default;
};

// A file as a region maps it.
struct MappedFile {
  int fd = -1;  // borrowed
  // Reading an unowned page through a mapping makes the file system allocate it (tmpfs): a base
  // grows by zeros then, which its next writer may give back (reclaim_unowned).
  bool hole_reads_allocate = false;
  bool dax = false;  // its pages are the medium's, not of the page cache
};

// Where the pages of one guest GiB lie: how to map it.
struct GibLayout {
  enum class Kind : uint8_t {
    kHole,    // reads as zeros
    kWindow,  // all pages of the chunk that are not zero lie in one window
    kMixed,   // they lie in several, of layers or bases; fold() makes that one
  };
  struct Chunk {
    Kind kind = Kind::kHole;
    FilePlace window;  // kWindow: it may be mapped whole, for its other pages are zero

    bool operator==(const Chunk&) const = default;
  };
  std::array<Chunk, kChunksPerSegment> chunks;
  // A GiB that may be mapped whole, hole or not: where its parts lie, which are equally long and
  // take one mapping each. All windows lie there, one a chunk, in order, and what lies between them
  // reads as zeros through any mapping. One part, or those of a stripe set; empty: there is none.
  std::vector<FilePlace> segment = {};
};

// The place of a chunk in a segment that has parts (GibLayout::segment).
FilePlace place_in_segment(const std::vector<FilePlace>& segment, uint64_t chunk);

// A run of equal pages, as `pcow-img map` prints it.
struct MapExtent {
  uint64_t start = 0;                                  // guest bytes
  uint64_t length = 0;                                 // bytes
  bool data = false;                                   // held by a file; otherwise reads as zeros
  std::optional<uint64_t> file_offset = std::nullopt;  // of `start`, when data
  uint32_t depth = 0;  // whose it is: 0 the image's, 1 its base's, 2 of the base of that
  uint32_t file = 0;   // of file(): where it is, when data
};

struct PageWrite {
  PageIndex page;
  const std::byte* data;  // kPageSize bytes; need not be aligned
};

struct WriteReport {
  uint64_t written_pages = 0;
  uint64_t zero_pages = 0;  // all zero: left, or made, holes
};

struct LogReport {
  uint64_t changed_pages = 0;  // that are not as they were stored; also those given again
  uint64_t logged_bytes = 0;   // of log that they took
};

struct CheckpointReport {
  uint64_t stored_pages = 0;
  bool done = false;  // the log holds nothing any more of what was committed when this began
};

struct DeletionReport {
  uint64_t moved_pages = 0;
  bool done = false;   // nothing is left to do
  bool waits = false;  // nothing but emptying segments that are in use
};

// What the log holds, in bytes, and what it has room for.
struct LogState {
  uint64_t size = 0;
  uint64_t size_max = 0;   // restart_epoch() may make it so large
  uint64_t committed = 0;  // in front of the epoch that is under way: a checkpoint frees it
  uint64_t under_way = 0;  // of the epoch that is under way
  // Pages that log_pages() takes for certain before the next commit(), counting what it frees by
  // itself, but not the metadata of pages that become owned: 50 KiB at most for each of their GiBs.
  uint64_t room_pages = 0;
};

// Whether somebody still maps windows of a segment, whose parts lie there (GibLayout::segment).
using SegmentInUse = std::function<bool(const std::vector<FilePlace>& segment)>;

// Called with the bytes that are done, and of how many; may be empty.
using Progress = std::function<void(uint64_t, uint64_t)>;

class Image {
 public:
  // Creates an image; it is durable when this returns. Fails without leaving a file behind, and
  // without touching an existing one unless `overwrite`.
  // Errors: kInvalid, kExists, kBusy, kNotFound (directory, base), kPermission, kNoSpace, kIo;
  // those of opening the base.
  static Result<void> create(const std::string& path, const CreateOptions& options);

  // Opens an image. Cost and memory do not depend on its size. On failure nothing was modified.
  // Errors: kNotFound, kPermission, kBusy (message names the holder), kForeign, kUnsupported,
  // kCorrupt (also: the base was changed), kNeedsRecovery, kIo, kNoSpace (recovery), kNoMemory.
  // Those of a base name both files.
  static Result<std::unique_ptr<Image>> open(const std::string& path, const OpenOptions& options);

  // Destruction without close() leaves a writable image as after a crash.
  virtual ~Image() = default;
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  // Drops an epoch that is under way, checkpoints, marks the image clean and releases the lock.
  // Reading goes on working, writing does not. On failure the image stays open and unclean.
  // Errors: kIo, kNoSpace.
  virtual Result<void> close() = 0;

  virtual ImageInfo info() const = 0;
  virtual uint64_t virtual_size() const = 0;

  // The files that layout() names, for mapping their windows privately. REQUIRES: index <
  // file_count().
  virtual uint32_t file_count() const = 0;
  virtual MappedFile file(uint32_t index) const = 0;
  // The descriptor of the image's own, first file. Borrowed.
  int fd() const { return file(0).fd; }

  // --- what is where -------------------------------------------------------------------------
  // Caches nothing; reads one block of a GiB that only one layer has written to, else one for each
  // layer that has, and more for the chunks that several have written to; and what the base has of
  // it. What the log has of a page (logged_pages) is not in its window yet.
  // Errors: kIo, kCorrupt, kInvalid (beyond the end), kPermission (the base was not opened).
  virtual Result<GibLayout> layout(GibIndex gib) const = 0;
  // Which pages of a chunk the image owns, in whatever layer; without those of a base.
  virtual Result<PageMap> page_map(ChunkIndex chunk) const = 0;
  // Runs of the guest range [start, start + length), ascending, adjacent ones merged.
  virtual Result<void> map(uint64_t start, uint64_t length,
                           const std::function<void(const MapExtent&)>& fn) const = 0;
  // Reads guest memory as of the last write; unowned pages read as zeros.
  // REQUIRES: [offset, offset + out.size()) inside the virtual size.
  virtual Result<void> read(uint64_t offset, std::span<std::byte> out) const = 0;

  // --- writing (images opened kReadWrite) ------------------------------------------------------
  // Stores whole pages in place, in batches. Space is reserved and ownership is logged before the
  // first byte of a batch is stored, so a crash never leaves data in an unowned page. Durable only
  // after commit(). Pages ascending, each at most once.
  // On any error an arbitrary part was stored; nothing else changed, and the call may be repeated.
  // Errors: kNoSpace, kIo, kCorrupt (a table the write needs is damaged), kInvalid.
  // REQUIRES: no epoch is under way (log_pages); else kInvalid.
  virtual Result<WriteReport> write_pages(std::span<const PageWrite> pages) = 0;
  // Makes the pages [first, first + count) zero and gives the space that the image took for them
  // back to the file system. What snapshots and the base hold there stays and is hidden. Returns
  // how many pages may have held something. Durable when it returns, a part of it whenever a crash
  // comes: each page is old or zero. Waits for the medium: of many ranges give large ones.
  //
  // A mapping of a window that these pages lie in shows zeros from now on if the pages were written
  // since the last snapshot; other mappings go on showing what is hidden now.
  // Errors: kNoSpace (to say what is hidden), kIo, kCorrupt, kInvalid (the range, or an epoch is
  // under way). On an error some pages are zero, and the call may be repeated.
  virtual Result<uint64_t> discard(PageIndex first, uint64_t count) = 0;
  // Copies the pages of older layers and of the base that show in these chunks, so that all their
  // pages lie in windows of one segment. The content stays the same, also after a crash, and so
  // does every window that is mapped. Returns the pages copied. Errors: kNoSpace, kIo, kCorrupt,
  // kInvalid (the range, or an epoch is under way). On an error some chunks may be done.
  virtual Result<uint64_t> fold(ChunkIndex first, uint64_t count) = 0;
  // Makes everything written and logged so far durable and returns the epoch that names this state.
  // What was logged since the last commit becomes part of the image as a whole, or, when this
  // fails, may be missing as a whole.
  virtual Result<Epoch> commit() = 0;
  // Changes the virtual size. Shrinking drops what lies beyond; `shrink` says that this is wanted.
  // Durable when it returns. Errors: kInvalid, kNoSpace, kIo, kUnsupported.
  virtual Result<void> resize(uint64_t virtual_size, bool shrink) = 0;
  // Gives back file space that unowned pages took up: on media where reading a hole allocates, or
  // left by an interrupted write. Returns the bytes freed.
  virtual Result<uint64_t> reclaim_unowned() = 0;

  // --- writing epochs (pcow/RECOVERY.md) --------------------------------------------------------
  // What goes through the log is all or nothing: whenever a crash comes, opening the image gives
  // back what the last commit() left (or, while one is under way, what it is about to leave),
  // nothing of what was logged later. Without a commit() it is gone, also on close().
  //
  // An epoch is under way from the first log_pages() that changes something to the next commit().
  // In between only reading, checkpoint() and reclaim_unowned() are possible; create_snapshot()
  // commits, restart_epoch(), apply_snapshot() and close() drop it, the others fail with kInvalid.

  // Appends the lines of these pages that changed to the log, without waiting for the medium. Pages
  // that the image does not own yet take no log: they are stored at their places, which waits once
  // for each 64 MiB of windows that an epoch begins to fill. A page may be given again any number
  // of times: the last time counts. Its bytes may change meanwhile: then what is logged is any
  // mixture, and the page is to be given again before commit(). Pages ascending, each at most once.
  //
  // When the log has no room it first checkpoints what is committed. If the epoch alone is too
  // large: kLogFull, nothing has changed, and what was logged before can be committed. An epoch
  // fits for certain as long as, over all its calls, 4,160 bytes for each page given that the image
  // owned before, or for pages that are zero 128 bytes for each of their chunks, and 50 KiB for
  // each GiB that it changes, and 32 KiB make no more than the log's size.
  // Memory: about 100 bytes for each page whose newest content is in the log.
  //
  // Errors: kLogFull, kNoSpace, kCorrupt, kInvalid: nothing was logged. kIo, kNoMemory: it takes no
  // further writes when the log itself is concerned; opening it again recovers the last epoch.
  virtual Result<LogReport> log_pages(std::span<const PageWrite> pages) = 0;
  // Drops the epoch that is under way, as if nothing had been given, stores what is committed, and
  // gives the log another size: for an epoch that did not fit. The log stays that large.
  // `log_size`: a multiple of 2 MiB, from `size` to `size_max` of its LogState. Errors: kInvalid
  // (the size): nothing has changed. kNoSpace, and kNoMemory before anything was stored: the epoch
  // is dropped, the log as it was. kIo, kCorrupt, kNoMemory: the image takes no further writes.
  virtual Result<void> restart_epoch(uint64_t log_size) = 0;
  // Stores committed pages at their places, up to `pages_max` of them, so that calls can take turns
  // with log_pages(). Pages that are zero become holes. When all are stored, makes that durable and
  // frees their part of the log: `done`, as also when there is nothing to do. Errors: kIo, kCorrupt
  // (the log changed behind the writer's back); the image takes no further writes.
  virtual Result<CheckpointReport> checkpoint(uint64_t pages_max) = 0;
  // The pages of a chunk whose content is in the log: read() shows them, but what lies at their
  // place in the file is older, so a mapping of it does not.
  virtual Result<PageMap> logged_pages(ChunkIndex chunk) const = 0;
  virtual LogState log_state() const = 0;

  // --- snapshots -------------------------------------------------------------------------------
  // A snapshot keeps the content and the virtual size that the image has at a committed epoch,
  // under a name of 1 to 127 bytes. Names are unique; snapshots are listed oldest first.
  virtual Result<std::vector<SnapshotInfo>> snapshots() const = 0;
  // Commits, then freezes what is there in one transaction whose size depends on nothing but the
  // number of GiBs. Windows that are mapped stay where they are. Durable when it returns.
  // Errors: kExists (the name), kInvalid (no such name is possible), kNoSpace (also: no more
  // snapshots are possible), kIo.
  virtual Result<void> create_snapshot(std::string_view name) = 0;
  // Deletes a snapshot, and whatever nothing else shows any more: begin_deletion(), and what is
  // left to do of it or of one before. It is gone, durably, before its space is given back; when
  // that fails (kNoSpace, kIo: pages may have to be moved), it goes on with the next call of one of
  // these functions or the next open for writing.
  // REQUIRES: nothing maps windows of the image, because content moves between them.
  // Errors: kNotFound (the name), kNoSpace, kIo, kCorrupt, kInvalid (an epoch is under way).
  virtual Result<void> delete_snapshot(std::string_view name) = 0;
  // The snapshot is gone, durably. Nothing is moved, no window changes.
  // Errors: kNotFound (the name), kBusy (another one is being deleted), kNoSpace, kIo, kCorrupt,
  // kInvalid (an epoch is under way).
  virtual Result<void> begin_deletion(std::string_view name) = 0;
  // Goes on with a deletion for about as long as it takes to move `pages_max` pages: a call makes
  // at least one step. In between the image may be used for anything. What moves first empties the
  // log of data, in steps as well: call it when checkpoint() is done.
  //
  // Windows may be mapped privately meanwhile, of old layouts as well (image_deletion.cc has the
  // argument): where a mapping shows the content of a page, it goes on showing that, up to the time
  // when `in_use` says that the page's segment is not in use. Then the segment is emptied, and
  // may be used for anything else. An empty `in_use` says so of all.
  // Errors: kNoSpace, kIo, kCorrupt, kInvalid (an epoch is under way).
  virtual Result<DeletionReport> continue_deletion(uint64_t pages_max,
                                                   const SegmentInUse& in_use) = 0;
  // Goes back to a snapshot: content and virtual size are those that it keeps, what was written
  // since is lost, committed or not. The snapshots all stay. Durable when it returns; giving back
  // space, the requirement and the errors are those of delete_snapshot().
  virtual Result<void> apply_snapshot(std::string_view name) = 0;

  // --- the base --------------------------------------------------------------------------------
  // Gives an image another base, or none, without changing what a guest sees: what the bases show
  // differently is written into the image. All or nothing, also at a crash: it has the old base or
  // the new one. Durable when it returns. What the new base is based on is opened as far as
  // OpenOptions::base allowed that for the image.
  // REQUIRES: opened with kFollow, if it has a base.
  // Errors: those of create() with a base; kUnsupported (the image has snapshots, which show the
  // base too), kInvalid (it was made without a base), kPermission, kNoSpace, kIo.
  virtual Result<void> rebase(const std::optional<Base>& base, const Progress& progress) = 0;
  // The same, but only the reference changes: what a guest sees is what the new base shows. For a
  // base that was moved, or is known to hold the same. It is not open afterwards.
  virtual Result<void> set_base(const std::optional<Base>& base) = 0;
  // Writes the content down into the base, which then shows the same as far as it goes; what lies
  // behind the end of the image stays as it is there. Afterwards the image does not own those pages
  // any more unless `keep_pages`. A crash, or an error, leaves the base partly written and the
  // image as it was: the call may be repeated. Other images on that base are made useless, and
  // refuse it.
  // REQUIRES: opened with kFollow; afterwards the image can be closed only.
  // Errors: kInvalid (no base; data behind the end of the base), kUnsupported (the image or the
  // base has snapshots), kBusy (the base), kCorrupt, kPermission, kNoSpace, kIo.
  virtual Result<void> commit_to_base(bool keep_pages, const Progress& progress) = 0;

 protected:
  Image() = default;
};

// --- checking --------------------------------------------------------------------------------

struct CheckReport {
  uint64_t corruptions = 0;   // structures that contradict the format or each other
  uint64_t leaked_bytes = 0;  // file space nothing owns
  uint64_t allocated_pages = 0;
  uint64_t segments = 0;
  uint64_t log_records = 0;  // committed, not yet checkpointed
  Epoch committed_epoch;     // as the log leaves it
  bool clean = true;
  bool marked_corrupt = false;        // writers refuse it
  std::vector<std::string> messages;  // one line a finding, each naming structure and offset
};

// Verifies every structure of an image, read-only, sharing no code with the engine but the
// structure definitions. `progress` (may be empty) is called with what is done, and of how much.
// Errors: kNotFound, kPermission, kBusy, kForeign, kUnsupported, kIo; damage is not an error but a
// report with corruptions > 0.
Result<CheckReport> check_image(const std::string& path, bool force_share,
                                const std::function<void(uint64_t, uint64_t)>& progress);

enum class Repair {
  kLeaks,  // gives back file space that nothing owns; any corruption is refused
  kAll,    // also puts right what follows from structures that are sound
};

struct RepairReport {
  CheckReport found;                 // before, as the log leaves the image
  CheckReport left;                  // afterwards
  bool recovered = false;            // it was not closed cleanly, and recovered first
  std::vector<std::string> refused;  // why nothing was repaired; empty: all that was found was
};

// Checks, and repairs what the check proves how to: all of it or, if anything else is damaged,
// nothing. What a guest sees is never changed, nor the generation of a clean image. A crash leaves
// the image as before or as after, or, of several things that were wrong, some repaired: call it
// again. `progress` is that of each check.
//
// An image that was not closed cleanly is recovered first, as a writable open does, unless the
// repair is refused. Damage that shows itself only then marks the image corrupt.
// Errors: those of check_image(); kBusy also for readers; kNoSpace.
Result<RepairReport> repair_image(const std::string& path, Repair repair,
                                  const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace pcow
