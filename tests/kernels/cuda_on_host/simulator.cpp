// SPDX-License-Identifier: Apache-2.0
#undef _FORTIFY_SOURCE  // its longjmp refuses to go from one stack to another
#include "cuda_on_host/simulator.h"

#include <ucontext.h>
#include <csetjmp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"

namespace nightshift::simulated {
namespace {

constexpr int kWarp = 32;
constexpr std::size_t kStackBytes = 128 << 10;

struct Copy {
  void* to;
  const void* from;  // null: zeros
};

enum class State : std::uint8_t { ready, in_block_meeting, in_warp_meeting, over };

struct Thread {
  std::unique_ptr<std::byte[]> stack = std::make_unique<std::byte[]>(kStackBytes);
  ucontext_t start{};
  jmp_buf place{};
  bool started = false;
  State state = State::over;
  dim3 index;
  std::deque<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
};

// What the lanes of a warp exchange. Two of each: a lane may be at the next meeting while others still read.
struct Warp {
  alignas(16) unsigned char slots[2][kWarp][kSlot];
  int arrived = 0;
  int generation = 0;
};

class Block {
 public:
  void run(dim3 size, std::size_t shared_bytes, const std::function<void()>& thread);

  Thread& current() { return *threads_[current_]; }
  unsigned char* shared() { return shared_.data() + aligned_; }

  void wait(State state) {
    current().state = state;
    if (_setjmp(current().place) == 0) _longjmp(scheduler_, 1);
  }
  const unsigned char* exchange(const void* mine, std::size_t bytes);

  void set_order(Order order, std::uint64_t seed) {
    order_ = order;
    random_.seed(seed);
  }
  // Puts lanes, warps or blocks into the order in which they take their turns.
  template <class Turns>
  void arrange(Turns& turns) {
    if (order_ == Order::shuffled) std::shuffle(turns.begin(), turns.end(), random_);
    if (order_ == Order::descending) std::sort(turns.begin(), turns.end(), std::greater<>());
  }

 private:
  static void entry();
  void go_on(std::size_t thread);
  bool advance(std::size_t warp);
  void advance_all();
  bool open_barrier();
  void prepare(dim3 size, std::size_t shared_bytes);

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<std::size_t> turns_;  // of warps
  std::array<std::size_t, kWarp> lanes_ = [] {
    std::array<std::size_t, kWarp> lanes;
    std::iota(lanes.begin(), lanes.end(), std::size_t{0});
    return lanes;
  }();
  std::vector<Warp> warps_;
  std::vector<unsigned char> shared_;
  std::size_t aligned_ = 0;
  std::size_t count_ = 0;
  std::size_t current_ = 0;
  const std::function<void()>* work_ = nullptr;
  jmp_buf scheduler_{};
  ucontext_t back_{};
  Order order_ = Order::ascending;
  std::mt19937_64 random_{1};
};

Block block;

void Block::prepare(dim3 size, std::size_t shared_bytes) {
  count_ = static_cast<std::size_t>(size.x) * size.y * size.z;
  NS_CHECK(count_ > 0 && count_ <= 1024 && count_ % kWarp == 0, "simulator: a block of {} threads", count_);
  while (threads_.size() < count_) threads_.push_back(std::make_unique<Thread>());
  warps_.resize(count_ / kWarp);
  for (Warp& warp : warps_) warp.arrived = 0;
  shared_.assign(shared_bytes + 128, 0xff);  // bf16 and fp32 NaNs
  aligned_ = (128 - reinterpret_cast<std::uintptr_t>(shared_.data()) % 128) % 128;
  for (std::size_t i = 0; i < count_; ++i) {
    Thread& t = *threads_[i];
    if (t.state != State::over) t.started = false;  // a deadlock left it in the middle of its work
    t.state = State::ready;
    t.groups.clear();
    t.open.clear();
    const auto n = static_cast<unsigned>(i);
    t.index = dim3(n % size.x, n / size.x % size.y, n / size.x / size.y);
  }
}

// Never ends: the next block's thread goes on from here, on the same stack, for the price of a jump.
void Block::entry() {
  for (;;) {
    (*block.work_)();
    block.wait(State::over);
  }
}

void Block::go_on(std::size_t thread) {
  current_ = thread;
  Thread& t = *threads_[thread];
  thread_index = t.index;
  if (_setjmp(scheduler_) != 0) return;
  if (t.started) _longjmp(t.place, 1);
  t.started = true;
  getcontext(&t.start);
  t.start.uc_stack.ss_sp = t.stack.get();
  t.start.uc_stack.ss_size = kStackBytes;
  t.start.uc_link = &back_;
  makecontext(&t.start, &Block::entry, 0);
  setcontext(&t.start);
}

// Every lane of the warp that can, up to its next meeting, which opens once all have come. False: none could.
bool Block::advance(std::size_t warp) {
  bool ran = false;
  arrange(lanes_);
  for (const std::size_t lane : lanes_) {
    if (threads_[warp * kWarp + lane]->state != State::ready) continue;
    go_on(warp * kWarp + lane);
    ran = true;
  }
  if (warps_[warp].arrived < kWarp) return ran;
  warps_[warp].arrived = 0;
  ++warps_[warp].generation;
  for (const std::size_t lane : lanes_) threads_[warp * kWarp + lane]->state = State::ready;
  return true;
}

// Up to the block's next barrier. Nothing holds warps together in between: each runs as far ahead of the
// others as it can, or, shuffled, some meetings at a time.
void Block::advance_all() {
  for (bool going = true; going;) {
    going = false;
    arrange(turns_);
    for (const std::size_t warp : turns_) {
      bool ready = true;
      const bool stops = order_ == Order::shuffled && random_() % 2 == 0;
      for (std::uint64_t left = stops ? random_() % 8 : ~std::uint64_t{0}; ready && left > 0; --left)
        ready = advance(warp);
      going = going || ready;
    }
  }
}

// The barrier to which everybody has come. False: everybody has ended.
bool Block::open_barrier() {
  const auto all = [&](State state) {
    return std::all_of(threads_.begin(), threads_.begin() + static_cast<std::ptrdiff_t>(count_),
                       [&](const auto& t) { return t->state == state; });
  };
  if (all(State::over)) return false;
  if (!all(State::in_block_meeting)) {
    throw Error(fmt::format("simulator: threads of block ({}, {}, {}) wait for others that do not come",
                            block_index.x, block_index.y, block_index.z),
                "a barrier or a shuffle that not all threads reach");
  }
  for (std::size_t i = 0; i < count_; ++i) threads_[i]->state = State::ready;
  return true;
}

void Block::run(dim3 size, std::size_t shared_bytes, const std::function<void()>& thread) {
  prepare(size, shared_bytes);
  work_ = &thread;
  turns_.resize(count_ / kWarp);
  std::iota(turns_.begin(), turns_.end(), std::size_t{0});
  do {
    advance_all();
  } while (open_barrier());
}

const unsigned char* Block::exchange(const void* mine, std::size_t bytes) {
  NS_CHECK(bytes <= kSlot, "simulator: {} bytes in a shuffle", bytes);
  Warp& warp = warps_[current_ / kWarp];
  unsigned char(&slots)[kWarp][kSlot] = warp.slots[warp.generation % 2];
  std::memcpy(slots[current_ % kWarp], mine, bytes);
  ++warp.arrived;
  wait(State::in_warp_meeting);
  return slots[0];
}

}  // namespace

void set_order(Order order, std::uint64_t seed) {
  block.set_order(order, seed);
}

namespace {

// NIGHTSHIFT_SIMULATED_ORDER: ascending, descending, shuffled, shuffled:SEED
bool order_from_environment() {
  const char* named = std::getenv("NIGHTSHIFT_SIMULATED_ORDER");
  const std::string_view order = named == nullptr ? "ascending" : named;
  if (order == "descending") {
    set_order(Order::descending);
  } else if (order.starts_with("shuffled")) {
    set_order(Order::shuffled, order.size() > 9 ? std::stoull(std::string(order.substr(9))) : 1);
  } else if (order != "ascending") {
    throw Error(fmt::format("NIGHTSHIFT_SIMULATED_ORDER = {}", order),
                "ascending, descending, shuffled:SEED");
  }
  return true;
}

}  // namespace

std::size_t most_shared() {
  constexpr std::size_t kHopper = 232448;
  const char* setting = std::getenv("NIGHTSHIFT_SIMULATED_SHARED");
  return setting == nullptr ? kHopper : std::strtoull(setting, nullptr, 10);
}

void run_grid(dim3 grid, dim3 size, std::size_t shared_bytes, const std::function<void()>& thread) {
  static const bool ordered = order_from_environment();
  static_cast<void>(ordered);
  if (shared_bytes > most_shared())
    throw std::runtime_error(
        fmt::format("a block with {} bytes of shared memory, at most {}", shared_bytes, most_shared()));
  grid_size = grid;
  block_size = size;
  std::vector<unsigned> blocks(std::size_t{grid.x} * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0U);
  block.arrange(blocks);
  for (const unsigned i : blocks) {
    block_index = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    block.run(size, shared_bytes, thread);
  }
}

unsigned char* dynamic_shared() {
  return block.shared();
}
void meet_block() {
  block.wait(State::in_block_meeting);
}
const unsigned char* meet_warp(const void* mine, std::size_t bytes) {
  return block.exchange(mine, bytes);
}

void copy_async(void* shared, const void* global, bool valid) {
  const auto misaligned =
      (reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global)) % 16;
  NS_CHECK(misaligned == 0, "simulator: an asynchronous copy of 16 bytes that are not aligned");
  block.current().open.push_back({shared, valid ? global : nullptr});
}
void commit_copies() {
  Thread& t = block.current();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}
void wait_for_copies(int pending) {
  Thread& t = block.current();
  for (; t.groups.size() > static_cast<std::size_t>(pending); t.groups.pop_front()) {
    for (const Copy& c : t.groups.front()) {
      c.from == nullptr ? std::memset(c.to, 0, 16) : std::memcpy(c.to, c.from, 16);
    }
  }
}

namespace {
std::vector<std::function<void()>>* captured = nullptr;
}  // namespace

bool capturing() {
  return captured != nullptr;
}

void submit(std::function<void()> work) {
  if (captured == nullptr) return work();
  captured->push_back(std::move(work));
}

Stream* the_stream() {
  static Stream stream{&submit};
  return &stream;
}

void begin_capture() {
  captured = new std::vector<std::function<void()>>;
}

std::vector<std::function<void()>> end_capture() {
  const std::unique_ptr<std::vector<std::function<void()>>> all(std::exchange(captured, nullptr));
  return std::move(*all);
}

}  // namespace nightshift::simulated

namespace nightshift::kernels::cuda {
namespace {

using simulated::kSlot;

std::uint16_t element(const unsigned char* all, int matrix, int row, int column) {
  const unsigned char* address = nullptr;
  std::memcpy(&address, all + (8 * matrix + row) * kSlot, sizeof address);
  std::uint16_t value = 0;
  std::memcpy(&value, address + 2 * column, sizeof value);
  return value;
}

void load(std::uint32_t (&r)[4], const void* row, bool transposed) {
  NS_CHECK(reinterpret_cast<std::uintptr_t>(row) % 16 == 0, "simulator: a matrix row that is not aligned");
  const unsigned char* all = simulated::meet_warp(&row, sizeof row);
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, c = 2 * (lane % 4);
  for (int m = 0; m < 4; ++m) {
    const std::uint32_t low = transposed ? element(all, m, c, g) : element(all, m, g, c);
    const std::uint32_t high = transposed ? element(all, m, c + 1, g) : element(all, m, g, c + 1);
    r[m] = low | (high << 16);
  }
}

struct Operands {
  std::uint32_t a[4], b[2];
};

float bf16_at(std::uint32_t pair, int half) {
  return float_of(half == 0 ? pair << 16 : pair & 0xffff0000U);
}

}  // namespace

void load_matrices(std::uint32_t (&r)[4], const void* row) {
  load(r, row, false);
}
void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  load(r, row, true);
}

// The order of the sixteen additions is not documented for the hardware; here it is the order of k.
void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const Operands mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const unsigned char* all = simulated::meet_warp(&mine, sizeof mine);
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, c = 2 * (lane % 4);
  float rows[2][16], columns[2][16];  // g and g + 8 of a, c and c + 1 of b
  for (int k = 0; k < 16; k += 2) {
    for (int i = 0; i < 2; ++i) {
      Operands row, column;
      std::memcpy(&row, all + (4 * g + k % 8 / 2) * kSlot, sizeof row);
      std::memcpy(&column, all + (4 * (c + i) + k % 8 / 2) * kSlot, sizeof column);
      for (int half = 0; half < 2; ++half) {
        rows[i][k + half] = bf16_at(row.a[i + 2 * (k / 8)], half);
        columns[i][k + half] = bf16_at(column.b[k / 8], half);
      }
    }
  }
  for (int k = 0; k < 16; ++k)
    for (int i = 0; i < 4; ++i) d[i] += rows[i / 2][k] * columns[i % 2][k];
}

}  // namespace nightshift::kernels::cuda

// For tests, which know the library by its door only. 0, 1, 2: ascending, descending, shuffled.
extern "C" __attribute__((visibility("default"))) void nightshift_simulator_order(int order,
                                                                                  std::uint64_t seed) {
  nightshift::simulated::set_order(static_cast<nightshift::simulated::Order>(order), seed);
}
