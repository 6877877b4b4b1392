// SPDX-License-Identifier: Apache-2.0
// A disk that breaks at a chosen moment. Preloaded into a process, this makes the calls of one kind on files
// whose path contains a word fail, from the k-th such call of the process on:
//
//   DISK_FAULT_PATH   the word                       DISK_FAULT_CALL   open | write | sync | read
//   DISK_FAULT_AFTER  k - 1, calls that still work   DISK_FAULT_ERRNO  ENOSPC | EIO | EROFS
//   DISK_FAULT_PROGRAM  only in processes whose name contains this; default: all
//
// `open` fails for writing only, as on a file system that has become read-only. Standard streams call the
// kernel from inside the C library and are not seen.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

static const char* setting(const char* name) {
  const char* value = getenv(name);
  return value == NULL ? "" : value;
}

static int error_number(void) {
  const char* name = setting("DISK_FAULT_ERRNO");
  if (strcmp(name, "ENOSPC") == 0) return ENOSPC;
  return strcmp(name, "EROFS") == 0 ? EROFS : EIO;
}

// 1 when this call is to fail; errno says why.
static int fails(const char* call, const char* path) {
  const char* word = setting("DISK_FAULT_PATH");
  if (*word == '\0' || strstr(path, word) == NULL || strcmp(setting("DISK_FAULT_CALL"), call) != 0) return 0;
  if (strstr(program_invocation_short_name, setting("DISK_FAULT_PROGRAM")) == NULL) return 0;
  if (atomic_fetch_add(&calls, 1) < atol(setting("DISK_FAULT_AFTER"))) return 0;
  errno = error_number();
  return 1;
}

static int fails_on(const char* call, int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const int before = errno;
  const ssize_t size = readlink(link, path, sizeof path - 1);
  errno = before;
  if (size < 0) return 0;
  path[size] = '\0';
  return fails(call, path);
}

// The function of this name that this library stands in front of.
#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

static int open_checked(const char* name, const char* path, int flags, mode_t mode) {
  if ((flags & (O_WRONLY | O_RDWR)) != 0 && fails("open", path)) return -1;
  return NEXT(int (*)(const char*, int, ...), name)(path, flags, mode);
}

#define DEFINE_OPEN(function)                                              \
  int function(const char* path, int flags, ...) {                         \
    va_list rest;                                                          \
    va_start(rest, flags);                                                 \
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                          \
    return open_checked(#function, path, flags, mode);                     \
  }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_WRITE(function, offset_type)                                                             \
  ssize_t function(int fd, const void* bytes, size_t size, offset_type offset) {                        \
    if (fails_on("write", fd)) return -1;                                                               \
    return NEXT(ssize_t(*)(int, const void*, size_t, offset_type), #function)(fd, bytes, size, offset); \
  }
DEFINE_WRITE(pwrite, off_t)
DEFINE_WRITE(pwrite64, off64_t)

ssize_t write(int fd, const void* bytes, size_t size) {
  if (fails_on("write", fd)) return -1;
  return NEXT(ssize_t(*)(int, const void*, size_t), "write")(fd, bytes, size);
}

ssize_t read(int fd, void* bytes, size_t size) {
  if (fails_on("read", fd)) return -1;
  return NEXT(ssize_t(*)(int, void*, size_t), "read")(fd, bytes, size);
}

#define DEFINE_READ(function, offset_type)                                                        \
  ssize_t function(int fd, void* bytes, size_t size, offset_type offset) {                        \
    if (fails_on("read", fd)) return -1;                                                          \
    return NEXT(ssize_t(*)(int, void*, size_t, offset_type), #function)(fd, bytes, size, offset); \
  }
DEFINE_READ(pread, off_t)
DEFINE_READ(pread64, off64_t)

#define DEFINE_SYNC(function)                 \
  int function(int fd) {                      \
    if (fails_on("sync", fd)) return -1;      \
    return NEXT(int (*)(int), #function)(fd); \
  }
DEFINE_SYNC(fsync)
DEFINE_SYNC(fdatasync)
