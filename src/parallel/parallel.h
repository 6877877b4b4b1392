// SPDX-License-Identifier: Apache-2.0
// Ranks and how they talk: the MPI environment, communicators, the shared work queue, the progress board.
// Every MPI call is checked; a failure names the call, the rank and the host.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nightshift::parallel {

// MPI from the first line of main to the last. Must outlive everything else of this room. One per process.
// What an error destroys on its way up to main is not freed, because freeing is collective: main must end in
// abort() then.
class Environment {
 public:
  Environment(int* argc, char*** argv);
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  // Ends all ranks of the job with this exit code; for main's catch, after the message has been printed.
  [[noreturn]] static void abort(int code);
};

// A communicator of our own (never the caller's, never the world itself), freed with its last owner.
class Communicator {
 public:
  static Communicator world();
  static Communicator self();

  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;
  ~Communicator();

  int rank() const;
  int size() const;
  // Ranks of this communicator on this host, and this one's place among them.
  int host_rank() const;
  int host_size() const;
  static std::string host_name();

  // Ranks with equal colour form one communicator, ordered by key.
  Communicator split(int color, int key) const;

  void barrier() const;
  // A barrier that sleeps instead of spinning, and calls `meanwhile` every few milliseconds: ranks that are
  // done early leave their cores to the others.
  void wait_for_all(const std::function<void()>& meanwhile) const;
  void broadcast(std::string& text, int root = 0) const;                       // any length
  std::vector<std::string> gather(std::string_view text, int root = 0) const;  // by rank; empty elsewhere
  double sum(
      double value) const;  // of host-side statistics; not for model numbers, whose order is fixed elsewhere
  std::int64_t min(std::int64_t value) const;
  std::int64_t max(std::int64_t value) const;

 private:
  friend class WorkQueue;
  friend class ProgressBoard;
  struct Impl;
  explicit Communicator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A run of consecutive input rows that one rank takes at once.
struct Unit {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  bool operator==(const Unit&) const = default;
};

// Cuts rows [0, n) into units: equal ones of `largest` rows while there is plenty, then guided
// self-scheduling (Polychronopoulos and Kuck 1987): each unit a fixed share of what is left, down to
// `smallest`, so that ranks finish together. A pure function: every rank computes the same table.
std::vector<Unit> cut_units(std::uint64_t rows, int ranks, std::uint64_t largest, std::uint64_t smallest = 1);

// The order in which units are claimed: costliest first where costs are known (one per unit), else as they
// come. Small units stay behind large ones, since they exist to even out the end.
std::vector<std::uint32_t> claim_order(std::span<const Unit> units, std::span<const std::uint64_t> costs);

// One counter at rank 0 that all ranks increase by one-sided fetch-and-add. Nobody serves it and nobody waits
// for another rank's step. Collective to construct and to destroy.
class WorkQueue {
 public:
  WorkQueue(const Communicator& ranks, std::uint64_t units);
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  std::optional<std::uint64_t>
  claim();  // the next unit's place in the order, or none: never the same one twice

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A row of 64-bit counters per rank, kept at rank 0 by one-sided puts: publishing never waits for another
// rank's step. Collective to construct and to destroy.
class ProgressBoard {
 public:
  ProgressBoard(const Communicator& ranks, int counters);
  ~ProgressBoard();
  ProgressBoard(const ProgressBoard&) = delete;
  ProgressBoard& operator=(const ProgressBoard&) = delete;

  void publish(std::span<const std::int64_t> counters);  // replaces this rank's row
  std::vector<std::int64_t> totals();                    // sums over ranks; rank 0 only

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nightshift::parallel
