// SPDX-License-Identifier: Apache-2.0
// The in-work file of a rank, as LD_PRELOAD libraries see it being written: slots of 16 bytes, the first row
// and the number of rows, 0 once they have ended; slot 0 is for rows that are only being read.
// A library defines on_slot(), which is called before a rank writes one of the other slots.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { kSlotBytes = 16 };

static int is_in_work_file(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  if (size <= 0 || strcmp(program_invocation_short_name, "nightshift-rank") != 0) return 0;
  path[size] = '\0';
  return strstr(path, "/in-work-") != NULL;
}

static void on_slot(const uint64_t slot[2], off_t offset);

typedef ssize_t (*Pwrite)(int, const void*, size_t, off_t);

ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  static Pwrite next = NULL;
  if (next == NULL) next = (Pwrite)dlsym(RTLD_NEXT, "pwrite");
  uint64_t slot[2];
  if (size == kSlotBytes && offset != 0 && is_in_work_file(fd)) {
    memcpy(slot, bytes, sizeof slot);
    on_slot(slot, offset);
  }
  return next(fd, bytes, size, offset);
}

ssize_t pwrite64(int fd, const void* bytes, size_t size, off_t offset) {
  return pwrite(fd, bytes, size, offset);
}
