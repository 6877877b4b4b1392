// SPDX-License-Identifier: Apache-2.0
#include "nccl_on_host/mesh.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "cuda_on_host/devices.h"

namespace nightshift::simulated {
namespace {

using Clock = std::chrono::steady_clock;

Clock::time_point deadline() {
  const char* seconds = std::getenv("NCCL_ON_HOST_TIMEOUT");
  return Clock::now() +
         std::chrono::milliseconds(static_cast<int>(1000 * (seconds == nullptr ? 60.0 : std::atof(seconds))));
}

// False: nothing has happened until then.
bool wait_for(std::vector<pollfd>& sockets, Clock::time_point until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
  if (left <= 0) return false;
  const int ready = ::poll(sockets.data(), sockets.size(), static_cast<int>(left));
  return ready > 0 || (ready < 0 && errno == EINTR);
}

// The socket of a rank, in the abstract name space: it leaves no file behind.
sockaddr_un address_of(const std::string& name, int rank, socklen_t& length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = fmt::format("nccl-on-host-{}-{}", name, rank);
  std::memcpy(address.sun_path + 1, text.data(), text.size());
  length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  return address;
}

}  // namespace

std::size_t Deed::bytes() const {
  return count * (type == ncclFloat32 ? 4 : 1);
}

std::string Deed::text() const {
  const std::string size = fmt::format("{} {} {}", call, count, type == ncclFloat32 ? "float32" : "int8");
  return root < 0 ? size : fmt::format("{} root {}", size, root);
}

Deed deed(const char* call, std::size_t count, ncclDataType_t type, int root) {
  if (type != ncclInt8 && type != ncclFloat32)
    throw Failure{ncclInvalidArgument, fmt::format("{}: data type {}", call, static_cast<int>(type))};
  Deed made;
  std::strncpy(made.call, call, sizeof made.call - 1);
  made.count = count;
  made.type = type;
  made.root = root;
  return made;
}

struct Mesh::Hello {
  std::int32_t rank, size, gpu;
};

std::string Mesh::here() const {
  return fmt::format("rank {} of {}", rank_, size_);
}

Mesh::Mesh(const std::string& name, int rank, int size)
    : rank_(rank), size_(size), sockets_(static_cast<std::size_t>(size), -1) {
  const int listening = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t length = 0;
  const sockaddr_un address = address_of(name, rank, length);
  try {
    if (::bind(listening, reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
        ::listen(listening, size) != 0)
      throw Failure{ncclInvalidUsage, fmt::format("{}: another process has this rank", here())};
    for (int r = 0; r < rank; ++r) connect_to(name, r);
    for (int r = rank + 1; r < size; ++r) accept_one(listening);
  } catch (...) {
    ::close(listening);
    close();
    throw;
  }
  ::close(listening);
  for (const int socket : sockets_)
    if (socket >= 0) ::fcntl(socket, F_SETFL, O_NONBLOCK);
}

Mesh::~Mesh() {
  close();
}

void Mesh::close() {
  for (int& socket : sockets_)
    if (socket >= 0) ::close(std::exchange(socket, -1));
}

void Mesh::connect_to(const std::string& name, int peer) {
  socklen_t length = 0;
  const sockaddr_un address = address_of(name, peer, length);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const Clock::time_point until = deadline();
  while (::connect(socket, reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (Clock::now() > until) {
      ::close(socket);
      throw Failure{ncclSystemError, fmt::format("{} waits for rank {}, which does not come", here(), peer)};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  greet(socket, peer);
}

void Mesh::accept_one(int listening) {
  std::vector<pollfd> door{{listening, POLLIN, 0}};
  if (!wait_for(door, deadline()))
    throw Failure{ncclSystemError, fmt::format("{} waits for ranks that do not come", here())};
  greet(::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC), -1);
}

// `expected`: the other's rank; -1: it will say.
void Mesh::greet(int socket, int expected) {
  const char* gpu = std::getenv(kCurrentDevice);
  const Hello mine{rank_, size_, gpu == nullptr ? -1 : std::atoi(gpu)};
  Hello other{-1, -1, -1};
  std::vector<pollfd> door{{socket, POLLIN, 0}};
  const bool told = ::send(socket, &mine, sizeof mine, MSG_NOSIGNAL) == sizeof mine &&
                    wait_for(door, deadline()) &&
                    ::recv(socket, &other, sizeof other, MSG_WAITALL) == sizeof other;
  std::string wrong;
  if (!told)
    wrong = fmt::format("{}: rank {} has not answered", here(), expected);
  else if (other.size != size_)
    wrong = fmt::format("{}: rank {} says that there are {} ranks", here(), other.rank, other.size);
  else if (other.rank < 0 || other.rank >= size_ || other.rank == rank_ ||
           (expected >= 0 && other.rank != expected))
    wrong = fmt::format("{}: rank {} comes for rank {}", here(), other.rank, expected);
  else if (const char* shared = std::getenv("NCCL_ON_HOST_SHARED_GPU");
           mine.gpu == other.gpu && (shared == nullptr || *shared != '1'))
    wrong = fmt::format("Duplicate GPU detected : rank {} and rank {} both on CUDA device {}", rank_,
                        other.rank, mine.gpu);
  if (!wrong.empty()) {
    ::close(socket);
    throw Failure{ncclInvalidUsage, wrong};
  }
  sockets_[static_cast<std::size_t>(other.rank)] = socket;
}

// What is still to be sent to and received from one rank.
struct Mesh::Peer {
  struct Piece {
    const char* data;
    std::size_t bytes;
  };
  std::deque<Piece> sending;
  std::deque<const Incoming*> expecting;
  Deed heard;                // of the message that is coming in
  std::size_t received = 0;  // of its deed and its data together

  bool over() const { return sending.empty() && expecting.empty(); }
  short events() const {
    return static_cast<short>((sending.empty() ? 0 : POLLOUT) | (expecting.empty() ? 0 : POLLIN));
  }
  // False: the other side is gone.
  bool send(int socket);
  bool receive(int socket, const std::string& here);

 private:
  void check_deed(const std::string& here) const {
    const Incoming& wanted = *expecting.front();
    if (heard != wanted.deed)
      throw Failure{ncclInvalidUsage, fmt::format("{} does {}, rank {} does {}", here, wanted.deed.text(),
                                                  wanted.from, heard.text())};
  }
};

bool Mesh::Peer::send(int socket) {
  while (!sending.empty()) {
    Piece& piece = sending.front();
    const ssize_t sent = ::send(socket, piece.data, piece.bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    piece.data += sent;
    piece.bytes -= static_cast<std::size_t>(sent);
    if (piece.bytes == 0) sending.pop_front();
  }
  return true;
}

bool Mesh::Peer::receive(int socket, const std::string& here) {
  while (!expecting.empty()) {
    const Incoming& message = *expecting.front();
    const bool heading = received < sizeof heard;
    char* const to = heading ? reinterpret_cast<char*>(&heard) + received
                             : static_cast<char*>(message.data) + (received - sizeof heard);
    const std::size_t end = heading ? sizeof heard : sizeof heard + message.deed.bytes();
    const ssize_t got = ::recv(socket, to, end - received, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    received += static_cast<std::size_t>(got);
    if (received == sizeof heard) check_deed(here);
    if (received == sizeof heard + message.deed.bytes()) {
      received = 0;
      expecting.pop_front();
    }
  }
  return true;
}

void Mesh::exchange(const std::vector<Outgoing>& outgoing, const std::vector<Incoming>& incoming) {
  std::vector<Peer> peers(static_cast<std::size_t>(size_));
  for (const Outgoing& message : outgoing) {
    Peer& peer = peers[static_cast<std::size_t>(message.to)];
    peer.sending.push_back({reinterpret_cast<const char*>(&message.deed), sizeof message.deed});
    if (message.deed.bytes() > 0)
      peer.sending.push_back({static_cast<const char*>(message.data), message.deed.bytes()});
  }
  for (const Incoming& message : incoming)
    peers[static_cast<std::size_t>(message.from)].expecting.push_back(&message);
  const Clock::time_point until = deadline();
  for (;;) {
    std::vector<pollfd> waiting;
    std::vector<std::size_t> ranks;
    for (std::size_t r = 0; r < peers.size(); ++r) {
      if (peers[r].over()) continue;
      waiting.push_back({sockets_[r], peers[r].events(), 0});
      ranks.push_back(r);
    }
    if (ranks.empty()) return;
    Peer& first = peers[ranks.front()];
    if (!wait_for(waiting, until))
      throw Failure{ncclSystemError,
                    fmt::format("{} waits for rank {}, which does not come: {}", here(), ranks.front(),
                                first.expecting.empty() ? "it does not receive"
                                                        : first.expecting.front()->deed.text())};
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      Peer& peer = peers[ranks[i]];
      const bool alive = ((waiting[i].revents & (POLLIN | POLLHUP | POLLERR)) == 0 ||
                          peer.receive(sockets_[ranks[i]], here())) &&
                         ((waiting[i].revents & (POLLOUT | POLLERR)) == 0 || peer.send(sockets_[ranks[i]]));
      if (!alive && !peer.over())
        throw Failure{ncclRemoteError, fmt::format("{}: rank {} has ended", here(), ranks[i])};
    }
  }
}

}  // namespace nightshift::simulated
