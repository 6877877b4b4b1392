// SPDX-License-Identifier: Apache-2.0
// One launcher per output. DIRECTORY/lock names its holder (host, process) and is kept locked (flock) and
// touched every few seconds. On one host, and on file systems whose locks reach across hosts, the lock ends
// with its holder; elsewhere the file's age decides, measured by the file server's own clock: whoever finds
// the lock of another host waits until it is touched, and is refused, or has been silent for stale_seconds.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace nightshift::io {

struct LockOptions {
  double heartbeat_seconds = 10.0;
  double stale_seconds = 60.0;  // without a sign of life from another host, its lock counts as left behind
  double settle_seconds = 2.0;  // after taking over from another host: time for a rival to show
  // Called once before another host's lock is waited for, with words for people.
  std::function<void(const std::string&)> waiting = {};
};

class JobLock {
 public:
  // BadInput naming the holder when another launcher works on this output. The directory must exist. May take
  // stale_seconds.
  explicit JobLock(const std::string& directory, LockOptions options = {});
  ~JobLock();  // releases
  JobLock(const JobLock&) = delete;
  JobLock& operator=(const JobLock&) = delete;

  bool lost() const;                 // somebody took or removed the lock file: stop writing
  void check() const;                // throws Error when it is lost
  const std::string& nonce() const;  // names this holder, and no other before or after

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The nonce of whoever holds or held the lock of a directory; empty where there is none. For the holder's
// other processes, which may outlive it: what they find must be what they were started with.
std::string holder_nonce(const std::string& directory);

}  // namespace nightshift::io
