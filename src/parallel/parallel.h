// SPDX-License-Identifier: Apache-2.0
// Ranks and how they talk: the MPI environment, communicators, the mesh of replicas, shared memory of a host,
// the shared work queue, the progress board.
// Every MPI call is checked; a failure names the call, the rank and the host.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/trace.h"
#include "parallel/layout/layout.h"

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

// What a collective carries, for the report and the trace.
enum class Traffic : std::uint8_t {
  orders,              // admitted prompts and stop decisions, leader to followers
  embedding,           // vocabulary-parallel embedding: tree reduction
  qkv_exchange,        // token slices of all heads -> all tokens of this rank's heads
  attention_exchange,  // and back
  reduction,           // row-parallel products: fp32 subtree sums, then the sums
  sampled_rows,        // last hidden states of the sequences that sample
  sampling,            // candidates or logits of a vocabulary shard, and the sampled tokens
};
constexpr std::array kTrafficNames{"orders",    "embedding",    "qkv exchange", "attention exchange",
                                   "reduction", "sampled rows", "sampling"};

// Sums per kind since the start: bytes that this rank sent to others, calls, and the wall time inside them,
// waiting for the slowest rank included.
struct TrafficSum {
  std::uint64_t bytes = 0;
  std::uint64_t calls = 0;
  double seconds = 0.0;
};
using TrafficSums = std::array<TrafficSum, kTrafficNames.size()>;

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

  // --- of a step's tensors; counted under their kind. Blocks lie back to back in rank order; sizes in bytes,
  // one per rank, zero allowed, any size (MPI's int counts are this room's affair). With one rank: a copy.
  // all_to_all: block r of `send` goes to rank r; block r of `receive` comes from it. The buffers differ.
  void all_to_all(Traffic kind, const void* send, std::span<const std::int64_t> send_bytes, void* receive,
                  std::span<const std::int64_t> receive_bytes) const;
  // all_gather: every rank gets all blocks; its own lies in its place already.
  void all_gather(Traffic kind, void* blocks, std::span<const std::int64_t> bytes) const;
  // A text of any length from rank 0, small ones in one message.
  void broadcast(Traffic kind, std::string& text) const;

  // Counted by this communicator and all that were split from it or it was split from.
  TrafficSums traffic() const;
  // Adds exchanges of this kind that went another way than MPI and took no time of this thread.
  void count(Traffic kind, std::uint64_t bytes, std::uint64_t calls = 1) const;
  // From now on every collective above, of this family, leaves an event "exchange: <kind>" behind; a barrier
  // before each separates "wait" from it, so all ranks must do the same. Null: no more. The log must outlive
  // that.
  void trace_to(TraceLog* log) const;
  TraceLog* trace() const;  // null: nothing is traced

 private:
  friend class WorkQueue;
  friend class ProgressBoard;
  friend class SharedMemory;
  struct Impl;
  explicit Communicator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The job's ranks as replicas of degrees.sequence x degrees.tensor ranks: world rank = replica * P + rank in
// the replica. Collective to construct and to destroy. Throws BadInput when the world is no whole number of
// replicas.
class DeviceMesh {
 public:
  DeviceMesh(const Communicator& world, const Degrees& degrees);

  const Communicator& world() const { return *world_; }  // must outlive the mesh
  const Degrees& degrees() const { return degrees_; }
  int replicas() const { return replicas_; }
  int replica_index() const { return replica_index_; }
  const Place& place() const { return place_; }
  int chunk() const { return chunk_of(place_, degrees_); }
  bool leads() const { return replica_.rank() == 0; }

  const Communicator& replica() const { return replica_; }  // P ranks, order s * tensor + t
  // The groups of a layout. Base: `sequence` ranks with equal t in order of s, `tensor` ranks with equal s in
  // order of t. Shift: this rank alone, and all P in the order of their chunks.
  const Communicator& sequence_group(Layout layout) const;
  const Communicator& tensor_group(Layout layout) const;

 private:
  const Communicator* world_;
  Degrees degrees_;
  int replicas_ = 1;
  int replica_index_ = 0;
  Place place_;
  Communicator replica_;
  Communicator base_sequence_, base_tensor_;
  Communicator alone_, shift_tensor_;
};

// Memory that all ranks of a host see, as one MPI shared-memory window; with one rank on the host, its own
// memory in huge pages. Zeroed. Collective over `ranks` to construct and to destroy. Throws Error naming the
// size and what is free when the host's shared memory (/dev/shm) is too small.
class SharedMemory {
 public:
  SharedMemory(const Communicator& ranks, std::size_t bytes, const char* label);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::span<std::byte> bytes() const;
  const Communicator& host() const;  // the ranks that share it
  void publish() const;              // what any of them has written is seen by all after this. Collective

 private:
  struct Impl;
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
