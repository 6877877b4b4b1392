// SPDX-License-Identifier: Apache-2.0
// LD_PRELOAD library of the tests: jobs that take their time, on fast machines too. A rank sleeps
// $SLOW_PROMPTS milliseconds whenever it takes a prompt into work.
#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>

#include "in_work.h"

static void on_slot(const uint64_t slot[2], off_t offset) {
  const char* milliseconds = getenv("SLOW_PROMPTS");
  (void)offset;
  if (milliseconds == NULL || slot[1] == 0) return;  // 0: it has ended
  const long total = atol(milliseconds);
  const struct timespec pause = {.tv_sec = total / 1000, .tv_nsec = total % 1000 * 1000000};
  nanosleep(&pause, NULL);
}
