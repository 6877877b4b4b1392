// SPDX-License-Identifier: Apache-2.0
#undef _FORTIFY_SOURCE  // its longjmp refuses to go from one stack to another
#include "cuda_on_host/simulator.h"

#include <ucontext.h>
#include <csetjmp>

#include <algorithm>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
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
  State state = State::ready;
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

 private:
  static void entry();
  void go_on(std::size_t thread);
  bool open_meetings();
  void prepare(dim3 size, std::size_t shared_bytes);

  std::vector<std::unique_ptr<Thread>> threads_;
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
  warps_.assign(count_ / kWarp, Warp());
  shared_.assign(shared_bytes + 128, 0xff);  // bf16 and fp32 NaNs
  aligned_ = (128 - reinterpret_cast<std::uintptr_t>(shared_.data()) % 128) % 128;
  for (std::size_t i = 0; i < count_; ++i) {
    Thread& t = *threads_[i];
    t.started = false;
    t.state = State::ready;
    t.groups.clear();
    t.open.clear();
    const auto n = static_cast<unsigned>(i);
    t.index = dim3(n % size.x, n / size.x % size.y, n / size.x / size.y);
  }
}

void Block::entry() {
  (*block.work_)();
  block.wait(State::over);
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

// Meetings that everybody has come to. False: nobody can go on.
bool Block::open_meetings() {
  bool opened = false;
  for (std::size_t w = 0; w < warps_.size(); ++w) {
    if (warps_[w].arrived < kWarp) continue;
    warps_[w].arrived = 0;
    ++warps_[w].generation;
    for (std::size_t i = w * kWarp; i < (w + 1) * kWarp; ++i) threads_[i]->state = State::ready;
    opened = true;
  }
  const auto all = [&](State state) {
    return std::all_of(threads_.begin(), threads_.begin() + static_cast<std::ptrdiff_t>(count_),
                       [&](const auto& t) { return t->state == state; });
  };
  if (all(State::in_block_meeting)) {
    for (std::size_t i = 0; i < count_; ++i) threads_[i]->state = State::ready;
    opened = true;
  }
  if (!opened && !all(State::over)) {
    throw Error(fmt::format("simulator: threads of block ({}, {}, {}) wait for others that do not come",
                            block_index.x, block_index.y, block_index.z),
                "a barrier or a shuffle that not all threads reach");
  }
  return opened;
}

void Block::run(dim3 size, std::size_t shared_bytes, const std::function<void()>& thread) {
  prepare(size, shared_bytes);
  work_ = &thread;
  std::vector<std::size_t> order(count_);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (order_ == Order::descending) std::reverse(order.begin(), order.end());
  do {
    if (order_ == Order::shuffled) std::shuffle(order.begin(), order.end(), random_);
    for (const std::size_t i : order) {
      if (threads_[i]->state == State::ready) go_on(i);
    }
  } while (open_meetings());
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

void run_grid(dim3 grid, dim3 size, std::size_t shared_bytes, const std::function<void()>& thread) {
  grid_size = grid;
  block_size = size;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        block.run(size, shared_bytes, thread);
      }
    }
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
  Operands of[32];
  for (int lane = 0; lane < 32; ++lane) std::memcpy(&of[lane], all + lane * kSlot, sizeof mine);
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, c = 2 * (lane % 4);
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), column = c + i % 2;
    for (int k = 0; k < 16; ++k) {
      const std::uint32_t from_a = of[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)];
      const std::uint32_t from_b = of[column * 4 + k % 8 / 2].b[k / 8];
      d[i] += bf16_at(from_a, k % 2) * bf16_at(from_b, k % 2);
    }
  }
}

}  // namespace nightshift::kernels::cuda

// For tests, which know the library by its door only. 0, 1, 2: ascending, descending, shuffled.
extern "C" __attribute__((visibility("default"))) void nightshift_simulator_order(int order,
                                                                                  std::uint64_t seed) {
  nightshift::simulated::set_order(static_cast<nightshift::simulated::Order>(order), seed);
}
