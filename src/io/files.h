// SPDX-License-Identifier: Apache-2.0
// POSIX files with every return code checked: positioned reads, whole writes, syncs, atomic replacement.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nightshift::io {

// An open file. Errors name the path and the system's reason.
class FileHandle {
 public:
  FileHandle() = default;
  FileHandle(const std::string& path, int flags, unsigned mode = 0644);  // O_CLOEXEC is added
  FileHandle(FileHandle&& other) noexcept;
  FileHandle& operator=(FileHandle&& other) noexcept;
  ~FileHandle();
  // A new file for reading and writing that goes with its last handle or mapping, a kill included, because it
  // has no name: in `directory`, or in $TMPDIR (else /tmp) where `directory` may not be written.
  static FileHandle unnamed(const std::string& directory);

  int fd() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  const std::string& path() const { return path_; }
  std::uint64_t size() const;

  std::size_t read_at(std::uint64_t offset, std::span<char> out) const;  // short only at the end of the file
  void write_at(std::uint64_t offset, std::span<const char> bytes) const;
  void sync_data() const;  // fdatasync
  void truncate(std::uint64_t size) const;
  void close();  // reports what the system kept back until now

 private:
  int fd_ = -1;
  std::string path_;
};

// A file's bytes as they are now, read as they are looked at. The file must not become shorter meanwhile.
class MappedFile {
 public:
  explicit MappedFile(const FileHandle& file);  // which may be closed afterwards
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const char> bytes() const { return bytes_; }

 private:
  std::span<const char> bytes_;
};

[[noreturn]] void throw_system_error(const std::string& what, int code);  // with a remedy for a full disk

std::string directory_of(const std::string& path);  // "." where there is none
void sync_file(const std::string& path);
void sync_directory(const std::string& path);
// Renames, then syncs the directory: after return the new name survives a crash.
void rename_durably(const std::string& from, const std::string& to);
// Readers see the old content or the new one, never a part. `durable`: also after a crash, for which it waits
// for the disk.
void write_file_atomically(const std::string& path, std::string_view content, bool durable = true);
std::string read_whole_file(const std::string& path, std::uint64_t limit_bytes);

// Removes a file when it goes out of scope, unless released: for output under a temporary name.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& final_path);  // FINAL.tmp-HOST-PID in the same directory
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }
  void commit(bool durable = true);  // sync, rename to the final path, sync the directory

 private:
  std::string final_path_, path_;
  bool committed_ = false;
};

std::string host_name();

}  // namespace nightshift::io
