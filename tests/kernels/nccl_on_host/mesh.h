// SPDX-License-Identifier: Apache-2.0
// Connections between every two ranks, and messages that say what they are.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <nccl.h>

namespace nightshift::simulated {

struct Failure {
  ncclResult_t result;
  std::string text;
};

// What a rank does, in the words of both sides of a message: they must be equal.
struct Deed {
  char call[24] = {};
  std::uint64_t count = 0;
  std::int32_t type = 0;
  std::int32_t root = -1;  // of calls that have one

  std::size_t bytes() const;
  std::string text() const;
  bool operator==(const Deed&) const = default;
};
Deed deed(const char* call, std::size_t count, ncclDataType_t type, int root = -1);

struct Outgoing {
  int to;
  Deed deed;
  const void* data;
};
struct Incoming {
  int from;
  Deed deed;
  void* data;
};

class Mesh {
 public:
  // Returns when all ranks have come; throws Failure when two of them do not fit together.
  Mesh(const std::string& name, int rank, int size);
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Between two ranks messages arrive in the order in which they are sent. Throws Failure where one side's
  // deed is not the other's.
  void exchange(const std::vector<Outgoing>& outgoing, const std::vector<Incoming>& incoming);
  void close();

 private:
  struct Peer;
  struct Hello;
  void connect_to(const std::string& name, int peer);
  void accept_one(int listening);
  void greet(int socket, int expected);
  std::string here() const;

  int rank_, size_;
  std::vector<int> sockets_;  // by rank; -1: none
};

}  // namespace nightshift::simulated
