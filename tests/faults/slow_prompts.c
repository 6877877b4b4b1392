// SPDX-License-Identifier: Apache-2.0
// LD_PRELOAD library of the tests: jobs that take their time, on fast machines too. A rank sleeps
// $SLOW_PROMPTS milliseconds whenever it takes a prompt into work.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "in_work.h"

static void slow_down(int fd, const void* bytes, size_t size, off_t offset) {
  const char* milliseconds = getenv("SLOW_PROMPTS");
  uint64_t slot[2];
  if (milliseconds == NULL || size != kSlotBytes || offset == 0 || !is_in_work_file(fd)) return;
  memcpy(slot, bytes, sizeof slot);
  if (slot[1] == 0) return;  // it has ended
  const long total = atol(milliseconds);
  const struct timespec pause = {.tv_sec = total / 1000, .tv_nsec = total % 1000 * 1000000};
  nanosleep(&pause, NULL);
}

typedef ssize_t (*Pwrite)(int, const void*, size_t, off_t);

ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  static Pwrite next = NULL;
  if (next == NULL) next = (Pwrite)dlsym(RTLD_NEXT, "pwrite");
  slow_down(fd, bytes, size, offset);
  return next(fd, bytes, size, offset);
}

ssize_t pwrite64(int fd, const void* bytes, size_t size, off_t offset) {
  return pwrite(fd, bytes, size, offset);
}
