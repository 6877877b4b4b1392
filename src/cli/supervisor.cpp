// SPDX-License-Identifier: Apache-2.0
#include "cli/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "core/check.h"

namespace nightshift::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kTickMilliseconds = 200;
constexpr std::size_t kKeptLines = 12;
constexpr std::chrono::seconds kRemindAfter{2};
constexpr std::chrono::seconds kKillAfter{10};  // SIGTERM, then SIGKILL

[[noreturn]] void throw_errno(const std::string& what) {
  throw Error(fmt::format("cannot {}: {}", what, std::strerror(errno)));
}

// A line of output and the rank it comes from: "[1,0]<stderr>:text" (mpirun), "0: text" (srun), else the
// launcher.
struct TaggedLine {
  int rank = -1;
  std::string text;
};

TaggedLine parse_tag(const std::string& line, bool srun) {
  int job = 0;
  int rank = 0;
  int used = 0;
  char stream[16] = {};
  if (srun) {
    if (std::sscanf(line.c_str(), "%d:%n", &rank, &used) != 1 || used == 0) return {-1, line};
  } else if (std::sscanf(line.c_str(), "[%d,%d]<%15[a-z]>:%n", &job, &rank, stream, &used) != 3 ||
             used == 0) {
    return {-1, line};
  }
  std::string text = line.substr(static_cast<std::size_t>(used));
  if (text.starts_with(' ')) text.erase(0, 1);
  return {rank, std::move(text)};
}

// Splits what comes out of the pipe into lines, shows those of the ranks, logs all.
class Output {
 public:
  Output(const std::filesystem::path& log, Terminal& terminal, bool srun)
      : log_(log, std::ios::app), terminal_(terminal), srun_(srun) {}

  void take(const char* bytes, std::size_t size) {
    pending_.append(bytes, size);
    for (std::size_t end = 0; (end = pending_.find('\n')) != std::string::npos; pending_.erase(0, end + 1)) {
      line(pending_.substr(0, end));
    }
  }
  void finish() {
    if (!pending_.empty()) line(std::exchange(pending_, {}));
  }
  std::vector<std::string> launcher() const { return launcher_; }
  // When mpirun said that a rank was killed, after which it should end.
  std::optional<Clock::time_point> rank_killed() const { return rank_killed_; }

 private:
  void line(const std::string& raw) {
    const TaggedLine tagged = parse_tag(raw, srun_);
    if (tagged.rank >= 0) {
      const std::string text = fmt::format("rank {}: {}", tagged.rank, tagged.text);
      log_ << text << std::endl;
      terminal_.message(text);
      return;
    }
    log_ << raw << std::endl;
    if (raw.find_first_not_of("- ") == std::string::npos) return;  // blank, or a ruler
    if (!rank_killed_ && raw.find("exited on signal") != std::string::npos) rank_killed_ = Clock::now();
    launcher_.push_back(raw);
    if (launcher_.size() > kKeptLines) launcher_.erase(launcher_.begin());
  }

  std::ofstream log_;
  Terminal& terminal_;
  bool srun_;
  std::string pending_;
  std::vector<std::string> launcher_;
  std::optional<Clock::time_point> rank_killed_;
};

struct Child {
  pid_t pid = -1;
  int output = -1;  // its stdout and stderr
};

// In the child, between fork and exec: only what is safe there.
[[noreturn]] void become(const runtime::LaunchCommand& command, const std::vector<char*>& argv, int output,
                         pid_t parent) {
  ::setpgid(0, 0);  // the terminal's Ctrl-C is ours to pass on
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);  // the parent has gone before prctl could tell
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  std::signal(SIGPIPE, SIG_DFL);
  const int input = ::open("/dev/null", O_RDONLY);
  ::dup2(input, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  for (const auto& [name, value] : command.environment) ::setenv(name.c_str(), value.c_str(), 1);
  ::execvp(argv[0], argv.data());
  const char* why = std::strerror(errno);
  ::dprintf(STDERR_FILENO, "cannot start %s: %s\n", argv[0], why);
  ::_exit(127);
}

Child start(const runtime::LaunchCommand& command) {
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) throw_errno("make a pipe");
  std::vector<char*> argv;
  for (const std::string& word : command.argv) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // ranks whose launcher dies come to us, and we end them
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) throw_errno("start the ranks");
  if (pid == 0) become(command, argv, pipe[1], parent);
  ::close(pipe[1]);
  return {pid, pipe[0]};
}

std::set<pid_t> children() {
  std::ifstream in(fmt::format("/proc/self/task/{}/children", ::gettid()));
  return {std::istream_iterator<pid_t>(in), {}};
}

// Children that became ours because their launcher died. `others` were there before: a shell that has become
// nightshift by exec leaves it what it had in the background, such as the reader of its output.
void end_orphans(const std::set<pid_t>& others) {
  for (int attempt = 0; attempt < 50; ++attempt) {
    bool any = false;
    for (const pid_t pid : children()) {
      if (others.contains(pid)) continue;
      any = true;
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, WNOHANG);
    }
    if (!any) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// Turns stop signals into ever firmer requests.
class Stopper {
 public:
  Stopper(pid_t launcher, Terminal& terminal) : launcher_(launcher), terminal_(terminal) {
    const sigset_t signals = SignalsHeld::signals();
    fd_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd_ < 0) throw_errno("watch for signals");
  }
  ~Stopper() { ::close(fd_); }
  Stopper(const Stopper&) = delete;
  Stopper& operator=(const Stopper&) = delete;

  int fd() const { return fd_; }
  bool asked() const { return requests_ > 0; }
  bool given_up() const { return given_up_; }

  // Ranks that hang: nothing that they have is worth waiting for.
  void give_up() {
    if (std::exchange(given_up_, true)) return;
    ::kill(launcher_, SIGTERM);
    kill_at_ = Clock::now() + kKillAfter;
  }

  void look() {
    signalfd_siginfo info{};
    while (::read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info))
      ask(static_cast<int>(info.ssi_signo));
    if (requests_ == 1 && Clock::now() > remind_at_) ask_ranks();
    if ((requests_ == 2 || given_up_) && Clock::now() > kill_at_) ::kill(-launcher_, SIGKILL);
  }

 private:
  // Again and again: until mpirun has started its ranks, it forgets signals.
  void ask_ranks() {
    ::kill(launcher_, SIGUSR1);
    remind_at_ = Clock::now() + kRemindAfter;
  }

  void ask(int signal) {
    ++requests_;
    if (requests_ == 1) {
      terminal_.message(fmt::format("stopping ({}): the ranks save what they have; once more to stop at once",
                                    ::sigabbrev_np(signal)));
      ask_ranks();
    } else if (requests_ == 2) {
      terminal_.message(
          "stopping at once: what is saved is safe, running answers go on from their last checkpoint");
      ::kill(launcher_, SIGTERM);
      kill_at_ = Clock::now() + kKillAfter;
    } else {
      ::kill(-launcher_, SIGKILL);
    }
  }

  pid_t launcher_;
  Terminal& terminal_;
  int fd_ = -1;
  int requests_ = 0;
  bool given_up_ = false;
  Clock::time_point kill_at_, remind_at_;
};

// False at the end of the stream.
bool drain(int fd, Output& output) {
  char bytes[8192];
  const ssize_t size = ::read(fd, bytes, sizeof bytes);
  if (size > 0) output.take(bytes, static_cast<std::size_t>(size));
  return size > 0 || (size < 0 && errno == EINTR);
}

}  // namespace

sigset_t SignalsHeld::signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    struct sigaction now {};
    ::sigaction(signal, nullptr, &now);
    if (now.sa_handler != SIG_IGN)
      sigaddset(&set, signal);  // ignored by whoever started us: nohup, a shell's "&"
  }
  return set;
}

SignalsHeld::SignalsHeld(AtEnd at_end) : at_end_(at_end) {
  const sigset_t set = signals();
  ::pthread_sigmask(SIG_BLOCK, &set, &before_);
}

SignalsHeld::~SignalsHeld() {
  const sigset_t set = signals();
  const timespec at_once{};
  while (at_end_ == AtEnd::drop && ::sigtimedwait(&set, nullptr, &at_once) > 0) {
  }
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

RanksEnd run_ranks(const runtime::LaunchCommand& command, const std::filesystem::path& log,
                   Terminal& terminal, const std::function<bool()>& tick) {
  Output output(log, terminal, command.argv.front() == "srun");
  const std::set<pid_t> others = children();
  const Child child = start(command);
  Stopper stopper(child.pid, terminal);
  int status = 0;
  bool open = true;
  // The pipe may stay open behind a launcher that was killed, in the hands of its ranks: its exit decides.
  while (::waitpid(child.pid, &status, WNOHANG) == 0) {
    pollfd fds[2] = {{stopper.fd(), POLLIN, 0}, {open ? child.output : -1, POLLIN, 0}};
    ::poll(fds, 2, kTickMilliseconds);
    stopper.look();
    if (open && fds[1].revents != 0) open = drain(child.output, output);
    // Open MPI 4 has been seen to wait for ever for ranks that were killed while they started.
    const auto killed = output.rank_killed();
    if (!tick() || (killed && Clock::now() > *killed + kKillAfter)) stopper.give_up();
  }
  end_orphans(others);
  while (open) open = drain(child.output, output);
  ::close(child.output);
  output.finish();
  tick();
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), stopper.asked(),
          stopper.given_up(), output.launcher()};
}

bool pause_unless_stopped(double seconds) {
  const auto until = Clock::now() + std::chrono::duration<double>(seconds);
  const sigset_t signals = SignalsHeld::signals();
  for (double left = seconds; left > 0.0;
       left = std::chrono::duration<double>(until - Clock::now()).count()) {
    const auto whole = static_cast<std::time_t>(left);
    const timespec rest{whole, static_cast<long>((left - static_cast<double>(whole)) * 1e9)};
    if (::sigtimedwait(&signals, nullptr, &rest) > 0) return false;
  }
  return true;
}

}  // namespace nightshift::cli
