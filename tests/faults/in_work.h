// SPDX-License-Identifier: Apache-2.0
// The in-work file of a rank, as LD_PRELOAD libraries see it being written: slots of 16 bytes, the first row
// and the number of rows, 0 once they have ended; slot 0 is for rows that are only being read.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
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
