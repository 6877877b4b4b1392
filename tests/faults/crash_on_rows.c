// SPDX-License-Identifier: Apache-2.0
// LD_PRELOAD library of the tests: prompts that kill their ranks. A rank that takes one of the rows in
// $CRASH_ON_ROWS ("17,133") into work dies of SIGSEGV: a few prompts later, or before it can say that the row
// has ended.
#define _GNU_SOURCE
#include <signal.h>
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

static void on_slot(const uint64_t slot[2], off_t offset) {
  if (deadly_slot != 0 && (offset == deadly_slot || --writes_left == 0)) raise(SIGSEGV);
  if (deadly_slot != 0 || slot[1] != 1 || !kills(slot[0])) return;
  deadly_slot = offset;
  writes_left = kWritesToLive;
}
