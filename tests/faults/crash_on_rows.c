// SPDX-License-Identifier: Apache-2.0
// LD_PRELOAD library of the tests: prompts that kill their ranks. A rank that takes one of the rows in
// $CRASH_ON_ROWS ("17,133") into work dies of SIGSEGV: a few prompts later, or before it can say that the row
// has ended.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

#include "in_work.h"

enum { kWritesToLive = 6 };

static off_t deadly_slot = 0;
static int writes_left = 0;

static int kills(uint64_t row) {
  const char* list = getenv("CRASH_ON_ROWS");
  while (list != NULL && *list != '\0') {
    char* end = NULL;
    if (strtoull(list, &end, 10) == row && end != list) return 1;
    list = *end == ',' ? end + 1 : "";
  }
  return 0;
}

static void consider(int fd, const void* bytes, size_t size, off_t offset) {
  uint64_t slot[2];
  if (size != kSlotBytes || offset == 0 || !is_in_work_file(fd)) return;
  memcpy(slot, bytes, sizeof slot);
  if (deadly_slot != 0 && (offset == deadly_slot || --writes_left == 0)) raise(SIGSEGV);
  if (deadly_slot != 0 || slot[1] != 1 || !kills(slot[0])) return;
  deadly_slot = offset;
  writes_left = kWritesToLive;
}

typedef ssize_t (*Pwrite)(int, const void*, size_t, off_t);

ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  static Pwrite next = NULL;
  if (next == NULL) next = (Pwrite)dlsym(RTLD_NEXT, "pwrite");
  consider(fd, bytes, size, offset);
  return next(fd, bytes, size, offset);
}

ssize_t pwrite64(int fd, const void* bytes, size_t size, off_t offset) {
  return pwrite(fd, bytes, size, offset);
}
