// SPDX-License-Identifier: Apache-2.0
#include "io/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace nightshift::io {

void throw_system_error(const std::string& what, int code) {
  const bool full = code == ENOSPC || code == EDQUOT;
  throw Error(
      fmt::format("{}: {}", what, std::strerror(code)),
      full ? "free some space or raise the quota, then start the same command again: finished work is kept"
           : "");
}

FileHandle::FileHandle(const std::string& path, int flags, unsigned mode) : path_(path) {
  fd_ = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd_ < 0) throw_system_error("cannot open " + path, errno);
}

FileHandle::FileHandle(FileHandle&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

FileHandle::~FileHandle() {
  if (fd_ >= 0) ::close(fd_);
}

namespace {

// -1 and errno when the directory takes no file. Not every file system has O_TMPFILE (NFS).
int open_unnamed(const std::string& directory) {
  const int fd = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  std::string path = directory + "/.nightshift-XXXXXX";
  const int named = ::mkostemp(path.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(path.c_str());
  return named;
}

std::string temporary_directory() {
  const char* named = std::getenv("TMPDIR");
  return named != nullptr && *named != '\0' ? named : "/tmp";
}

}  // namespace

FileHandle FileHandle::unnamed(const std::string& directory) {
  FileHandle file;
  std::string place = directory;
  file.fd_ = open_unnamed(place);
  if (file.fd_ < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
    place = temporary_directory();
    file.fd_ = open_unnamed(place);
  }
  file.path_ = "a temporary file in " + place;
  if (file.fd_ >= 0) return file;
  const int code = errno;
  if (place == directory) throw_system_error("cannot make " + file.path_, code);
  throw Error(fmt::format("cannot make {}, nor in {}: {}", file.path_, directory, std::strerror(code)),
              "set TMPDIR to a folder that may be written");
}

std::uint64_t FileHandle::size() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) throw_system_error("cannot read the size of " + path_, errno);
  return static_cast<std::uint64_t>(status.st_size);
}

std::size_t FileHandle::read_at(std::uint64_t offset, std::span<char> out) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_system_error("cannot read " + path_, errno);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

void FileHandle::write_at(std::uint64_t offset, std::span<const char> bytes) const {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        ::pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_system_error("cannot write " + path_, errno);
    done += static_cast<std::size_t>(n);
  }
}

void FileHandle::sync_data() const {
  while (::fdatasync(fd_) != 0) {
    if (errno != EINTR) throw_system_error("cannot sync " + path_, errno);
  }
}

void FileHandle::truncate(std::uint64_t size) const {
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) throw_system_error("cannot truncate " + path_, errno);
}

void FileHandle::close() {
  if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0) throw_system_error("cannot close " + path_, errno);
}

MappedFile::MappedFile(const FileHandle& file) {
  const std::uint64_t size = file.size();
  if (size == 0) return;  // nothing that could be mapped
  void* const start = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd(), 0);
  if (start == MAP_FAILED) throw_system_error("cannot map " + file.path(), errno);
  bytes_ = {static_cast<const char*>(start), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<char*>(bytes_.data()), bytes_.size());
}

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

void sync_file(const std::string& path) {
  const FileHandle file(path, O_RDONLY);
  if (::fsync(file.fd()) != 0) throw_system_error("cannot sync " + path, errno);
}

void sync_directory(const std::string& path) {
  const FileHandle directory(path, O_RDONLY | O_DIRECTORY);
  // EINVAL: the file system has no directory sync, and so nothing to wait for.
  if (::fsync(directory.fd()) != 0 && errno != EINVAL) throw_system_error("cannot sync " + path, errno);
}

namespace {

void rename_file(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    throw_system_error(fmt::format("cannot rename {} to {}", from, to), errno);
}

}  // namespace

void rename_durably(const std::string& from, const std::string& to) {
  rename_file(from, to);
  sync_directory(directory_of(to));
}

void write_file_atomically(const std::string& path, std::string_view content, bool durable) {
  TemporaryFile temporary(path);
  FileHandle file(temporary.path(), O_WRONLY | O_CREAT | O_TRUNC);
  file.write_at(0, content);
  file.close();
  temporary.commit(durable);
}

std::string read_whole_file(const std::string& path, std::uint64_t limit_bytes) {
  const FileHandle file(path, O_RDONLY);
  const std::uint64_t size = file.size();
  if (size > limit_bytes)
    throw Error(fmt::format("{} has {} bytes; at most {} are expected", path, size, limit_bytes));
  std::string content(size, '\0');
  content.resize(file.read_at(0, content));
  return content;
}

std::string host_name() {
  char name[256] = "";
  if (::gethostname(name, sizeof name - 1) != 0) return "unknown";
  return name;
}

TemporaryFile::TemporaryFile(const std::string& final_path)
    : final_path_(final_path), path_(fmt::format("{}.tmp-{}-{}", final_path, host_name(), ::getpid())) {}

TemporaryFile::~TemporaryFile() {
  if (!committed_) ::unlink(path_.c_str());
}

void TemporaryFile::commit(bool durable) {
  if (durable) sync_file(path_);
  rename_file(path_, final_path_);
  committed_ = true;
  if (durable) sync_directory(directory_of(final_path_));
}

}  // namespace nightshift::io
