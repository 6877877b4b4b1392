// SPDX-License-Identifier: Apache-2.0
#include "io/lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "core/check.h"
#include "io/files.h"

namespace nightshift::io {
namespace {

using Seconds = std::chrono::duration<double>;

struct Holder {
  std::string host;
  std::int64_t pid = 0;
  std::string boot;   // a pid means nothing after a reboot
  std::string nonce;  // tells two holders apart that are otherwise equal
};

std::string boot_id() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

Holder ourselves() {
  std::random_device random;
  return {host_name(), ::getpid(), boot_id(), fmt::format("{:08x}{:08x}", random(), random())};
}

std::string to_text(const Holder& holder) {
  return nlohmann::json{
             {"host", holder.host}, {"pid", holder.pid}, {"boot", holder.boot}, {"nonce", holder.nonce}}
             .dump() +
         "\n";
}

// None for a file that is still empty: its maker has not come to write it.
std::optional<Holder> read_holder(const FileHandle& file) {
  char bytes[4096];
  const std::size_t size = file.read_at(0, bytes);
  const nlohmann::json content = nlohmann::json::parse(std::string_view(bytes, size), nullptr, false);
  if (!content.is_object()) return std::nullopt;
  try {
    return Holder{content.at("host").get<std::string>(), content.at("pid").get<std::int64_t>(),
                  content.at("boot").get<std::string>(), content.at("nonce").get<std::string>()};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

enum class Flock { got, busy, unsupported };

Flock try_flock(const FileHandle& file) {
  while (::flock(file.fd(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return Flock::busy;
    if (errno != EINTR)
      return Flock::unsupported;  // ENOLCK, ENOSYS, EOPNOTSUPP: no lock service behind this mount
  }
  return Flock::got;
}

// A file that was replaced or removed between open and flock is not the lock any more.
bool is_current(const FileHandle& file) {
  struct stat ours {
  }, named{};
  return ::fstat(file.fd(), &ours) == 0 && ::stat(file.path().c_str(), &named) == 0 &&
         ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

double modified(const FileHandle& file) {
  struct stat status {};
  if (::fstat(file.fd(), &status) != 0) throw_system_error("cannot look at " + file.path(), errno);
  return static_cast<double>(status.st_mtim.tv_sec) + 1e-9 * static_cast<double>(status.st_mtim.tv_nsec);
}

// Seconds since the holder's last sign of life by the file server's clock, which stamps both files.
double age(const FileHandle& lock, const std::string& directory, const std::string& nonce) {
  const std::string probe_path = fmt::format("{}/.clock-{}", directory, nonce);
  const FileHandle probe(probe_path, O_RDWR | O_CREAT | O_TRUNC);
  probe.write_at(0, std::string_view("now"));
  const double now = modified(probe);
  ::unlink(probe_path.c_str());
  return now - modified(lock);
}

[[noreturn]] void refuse(const std::string& directory, const std::optional<Holder>& holder,
                         const std::string& why) {
  const std::string who =
      holder ? fmt::format("process {} on {}", holder->pid, holder->host) : "another launcher";
  throw BadInput(fmt::format("{} is in use by {}{}", directory, who, why),
                 "wait for that run to end or stop it; two runs must not share an output");
}

}  // namespace

struct JobLock::Impl {
  std::string directory;
  LockOptions options;
  Holder me = ourselves();
  FileHandle file;
  std::atomic<bool> lost{false};
  std::mutex mutex;
  std::condition_variable ended;
  bool stop = false;
  std::thread heartbeat;

  Impl(const std::string& dir, LockOptions opts) : directory(dir), options(opts) {
    while (!try_take()) {
    }
    heartbeat = std::thread([this] { beat(); });
  }

  // True when the lock is ours, false to try again, BadInput when somebody else holds it.
  bool try_take() {
    file = FileHandle(directory + "/lock", O_RDWR | O_CREAT);
    const Flock flocked = try_flock(file);
    if (!is_current(file)) return false;
    const std::optional<Holder> holder = read_holder(file);
    if (flocked == Flock::busy) refuse(directory, holder, "");
    const bool foreign = holder && holder->host != me.host;
    if (holder && !foreign && flocked == Flock::unsupported) check_dead_here(*holder);
    if (foreign) check_silent(*holder);
    write_holder();
    // Where locks do not reach across hosts, a rival may have written in the same moment: the last writer
    // holds it.
    if (foreign || flocked == Flock::unsupported) settle();
    return true;
  }

  void check_dead_here(const Holder& holder) const {
    const bool alive =
        holder.boot == me.boot && (::kill(static_cast<pid_t>(holder.pid), 0) == 0 || errno == EPERM);
    if (alive && holder.pid != me.pid) refuse(directory, holder, "");
    if (alive && age(file, directory, me.nonce) < options.stale_seconds) refuse(directory, holder, "");
  }

  // A live holder touches the file; one that was killed does not, and the next of a chain of jobs must not
  // fail for that.
  void check_silent(const Holder& holder) const {
    const double seen = modified(file), silent = age(file, directory, me.nonce);
    if (silent < options.stale_seconds && options.waiting) {
      options.waiting(
          fmt::format("process {} on {} may still be at work in {}: waiting up to {:.0f} s for a sign of it",
                      holder.pid, holder.host, directory, options.stale_seconds - silent));
    }
    while (age(file, directory, me.nonce) < options.stale_seconds) {
      std::this_thread::sleep_for(Seconds(std::min(1.0, options.stale_seconds / 20)));
      if (!is_current(file) || modified(file) != seen) refuse(directory, holder, "");
    }
  }

  void write_holder() const {
    const std::string text = to_text(me);
    file.truncate(0);
    file.write_at(0, text);
    if (::fsync(file.fd()) != 0) throw_system_error("cannot sync " + file.path(), errno);
  }

  void settle() const {
    std::this_thread::sleep_for(Seconds(options.settle_seconds));
    const FileHandle again(file.path(), O_RDONLY);
    const std::optional<Holder> holder = read_holder(again);
    if (!holder || holder->nonce != me.nonce) refuse(directory, holder, ", which took it in the same moment");
  }

  bool still_ours() const {
    try {
      const FileHandle again(file.path(), O_RDONLY);
      const std::optional<Holder> holder = read_holder(again);
      return holder && holder->nonce == me.nonce;
    } catch (const Error&) {
      // A file system that hiccups has not taken the lock from us; a missing file has.
      return ::access(file.path().c_str(), F_OK) == 0 || (errno != ENOENT && errno != ESTALE);
    }
  }

  void beat() {
    std::unique_lock guard(mutex);
    while (!ended.wait_for(guard, Seconds(options.heartbeat_seconds), [this] { return stop; })) {
      if (!still_ours()) lost = true;
      if (!lost) ::futimens(file.fd(), nullptr);
    }
  }

  void release() {
    {
      const std::lock_guard guard(mutex);
      stop = true;
    }
    ended.notify_one();
    heartbeat.join();
    if (!lost && is_current(file) && still_ours())
      ::unlink(file.path().c_str());  // before the flock goes with `file`
  }
};

JobLock::JobLock(const std::string& directory, LockOptions options)
    : impl_(std::make_unique<Impl>(directory, options)) {}

JobLock::~JobLock() {
  impl_->release();
}

const std::string& JobLock::nonce() const {
  return impl_->me.nonce;
}

std::string holder_nonce(const std::string& directory) {
  const std::string path = directory + "/lock";
  if (::access(path.c_str(), F_OK) != 0) return {};
  const std::optional<Holder> holder = read_holder(FileHandle(path, O_RDONLY));
  return holder ? holder->nonce : std::string();
}

bool JobLock::lost() const {
  return impl_->lost;
}

void JobLock::check() const {
  if (!lost()) return;
  throw Error(fmt::format("the lock on {} was taken away", impl_->directory),
              "another launcher may be at work; look there before starting again");
}

}  // namespace nightshift::io
