// SPDX-License-Identifier: Apache-2.0
// A row's tokens in an order, by one thread block, without sorting them all: exact radix selection cuts off
// the next chunk that fits into shared memory, a bitonic network (Batcher 1968) sorts it, and one thread adds
// up weights along it, because the bits of a sum are those of its order. Everything that is chosen is the
// beginning of a total order, so the number of threads changes nothing.
//
// An Order gives token c its key: Order::key(c, logit), below kNoKey, ascending, all different; kNoKey takes
// c out. Order::weight(key) is its weight, Order::id(key) is c, and its tokens are begin .. end - 1.
#pragma once

#include "kernels/cuda/exp.cuh"
#include "kernels/cuda/lane.cuh"

namespace nightshift::kernels::cuda {

using Key = std::uint64_t;  // of 55 bits: five digits of 11
inline constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
inline constexpr int kFirstShift = 4 * kDigitBits;
inline constexpr Key kNoKey = Key{1} << (5 * kDigitBits);
inline constexpr int kIdBits = 23;  // below 32 bits of logit
inline constexpr int kMostTokens =
    1 << 20;                               // of a vocabulary: an id above 32 bits of weight, and kMostBlocks
inline constexpr int kBlockTokens = 2048;  // added up on their own, as in model/sampler.cpp
inline constexpr int kMostBlocks = kMostTokens / kBlockTokens;
inline constexpr std::uint32_t kChunk = 2048;  // keys in shared memory; at least kBlockTokens and kDigits
inline constexpr int kCopies = 4;              // of each digit's counter, for fewer collisions of lanes
inline constexpr int kMostThreads = 1024;
inline constexpr int kAll = 0x7fffffff;  // as many as there are
inline constexpr std::uint32_t kInfinity = 0x7f800000U, kMinusInfinity = 0xff800000U;

// A sum along an order: of `count` weights so far, the last of them with key `last`.
struct Walk {
  double sum;
  Key last;
  int count;
};

struct Best {
  float value;
  std::int32_t id;        // the lowest with this value; kAll: none is above -infinity
  std::int32_t unusable;  // a NaN or +infinity is among the values
};

struct SelectionMemory {
  union {
    std::uint32_t bins[kDigits * kCopies];  // how often each digit occurs, while a chunk is looked for
    Key keys[kChunk];                       // the chunk
  };
  float weights[kChunk];  // of its keys
  double block_sums[kMostBlocks];
  std::uint32_t count;          // keys of the chunk
  std::uint32_t digit, before;  // the first digit that no longer fits, and the keys that come before it
  std::uint32_t warp_totals[kMostThreads / kWarp];
  Best warp_best[kMostThreads / kWarp];
  Key next;  // where the next chunk begins
  Walk walk;
  std::int32_t over;     // the walk has ended
  std::int32_t pending;  // a token that needs an edit of its own; -1: none
  float pending_logit;   // before that
};

static_assert(sizeof(SelectionMemory) <= 48 << 10);  // what a block may have everywhere

// exp((logit - maximum) / temperature), or 0 below min_p.
struct Weight {
  float maximum, inverse_temperature, min_p;
  NS_DEVICE float operator()(float logit) const {
    const float weight = fixed_exp(product(difference(logit, maximum), inverse_temperature));
    return weight < min_p ? 0.0F : weight;
  }
};

// Descending by logit, then ascending by id; never -infinity.
struct ByLikelihood {
  const float* row;
  Weight weigh;
  int begin, end;

  NS_DEVICE Key key(int c, float logit) const {
    if (logit == float_of(kMinusInfinity)) return kNoKey;
    const std::uint32_t bits = logit == 0.0F ? 0 : bits_of(logit);  // -0 and +0 are equal
    const std::uint32_t descending = (bits & 0x80000000U) != 0 ? bits : ~(bits | 0x80000000U);
    return (static_cast<Key>(descending) << kIdBits) | static_cast<Key>(c);
  }
  NS_DEVICE float weight(Key key) const {
    const auto descending = static_cast<std::uint32_t>(key >> kIdBits);
    return weigh(float_of((descending & 0x80000000U) != 0 ? descending : ~descending & 0x7fffffffU));
  }
  NS_DEVICE static int id(Key key) { return static_cast<int>(key & ((1U << kIdBits) - 1)); }
};

// Ascending by id: tokens of some weight whose key by likelihood is at most `last`.
struct ById {
  const float* row;
  ByLikelihood from;
  Key last;
  int begin, end;

  NS_DEVICE static Key key_of(int c, float weight) {
    return weight > 0.0F ? (static_cast<Key>(c) << (kIdBits + 12)) | bits_of(weight) : kNoKey;
  }
  NS_DEVICE Key key(int c, float logit) const {
    return from.key(c, logit) <= last ? key_of(c, from.weigh(logit)) : kNoKey;
  }
  NS_DEVICE static float weight(Key key) { return float_of(static_cast<std::uint32_t>(key)); }
  NS_DEVICE static int id(Key key) { return static_cast<int>(key >> (kIdBits + 12)); }
};

NS_DEVICE int thread_id() {
  return static_cast<int>(threadIdx.x);
}
NS_DEVICE int thread_count() {
  return static_cast<int>(blockDim.x);
}

// Calls use(key) for the key of each token, in one of the threads. Loads run ahead of what is done with them.
template <class Order, class Use>
NS_DEVICE void for_each_key(const Order& order, const Use& use) {
  constexpr int kAhead = 4;
  for (int first = order.begin + thread_id(); first < order.end; first += kAhead * thread_count()) {
    float logits[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int c = first + i * thread_count();
      logits[i] = order.row[c < order.end ? c : first];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int c = first + i * thread_count();
      if (c < order.end) use(order.key(c, logits[i]));
    }
  }
}

// How often each value of the digit at `shift` occurs among the keys of [from, to), which agree above it.
template <class Order>
NS_DEVICE void count_digits(const Order& order, Key from, Key to, int shift, SelectionMemory& s) {
  for (int i = thread_id(); i < kDigits * kCopies; i += thread_count()) s.bins[i] = 0;
  if (thread_id() == 0) s.count = 0;
  __syncthreads();
  const int copy = thread_id() % kCopies;
  for_each_key(order, [&](Key key) {
    if (key >= from && key < to)
      count_up(&s.bins[static_cast<int>((key >> shift) % kDigits) * kCopies + copy], 1);
  });
  __syncthreads();
}

// The sum of the values of all threads before this one.
NS_DEVICE std::uint32_t sum_before(std::uint32_t mine, SelectionMemory& s) {
  const int lane = thread_id() % kWarp;
  std::uint32_t total = mine;  // of the lanes up to this one
  for (int step = 1; step < kWarp; step *= 2) {
    const std::uint32_t other = from_lane(total, lane - step);
    if (lane >= step) total += other;
  }
  if (lane == kWarp - 1) s.warp_totals[thread_id() / kWarp] = total;
  __syncthreads();
  std::uint32_t before = total - mine;
  for (int w = 0; w < thread_id() / kWarp; ++w) before += s.warp_totals[w];
  return before;
}

// How many leading digits' keys fit into a chunk together: s.digit, kDigits if all do; s.before keys.
NS_DEVICE void divide(SelectionMemory& s) {
  const int own = kDigits / thread_count(), first = thread_id() * own;
  const auto keys_of = [&](int digit) {
    std::uint32_t keys = 0;
    for (int copy = 0; copy < kCopies; ++copy) keys += s.bins[digit * kCopies + copy];
    return keys;
  };
  std::uint32_t mine = 0;
#pragma unroll 1  // registers are scarce
  for (int i = 0; i < own; ++i) mine += keys_of(first + i);
  std::uint32_t before = sum_before(mine, s);
#pragma unroll 1  // registers are scarce
  for (int i = 0; i < own; ++i) {
    const std::uint32_t keys = keys_of(first + i);
    if (before <= kChunk && before + keys > kChunk) {  // of one digit at most
      s.digit = static_cast<std::uint32_t>(first + i);
      s.before = before;
    }
    before += keys;
  }
  if (thread_id() == thread_count() - 1 && before <= kChunk) {
    s.digit = kDigits;
    s.before = before;
  }
  __syncthreads();
}

// Keys 0 .. s.count - 1, ascending. Starts and ends with all threads together.
NS_DEVICE void sort_keys(SelectionMemory& s) {
  const auto count = static_cast<int>(s.count);
  int size = 1;
  while (size < count) size *= 2;
  for (int i = count + thread_id(); i < size; i += thread_count()) s.keys[i] = ~Key{0};
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int pair = thread_id(); pair < size / 2; pair += thread_count()) {
        const int i = 2 * pair - (pair & (step - 1)), j = i + step;
        const Key a = s.keys[i], b = s.keys[j];
        if ((a > b) == ((i & run) == 0)) {
          s.keys[i] = b;
          s.keys[j] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Puts the first keys from `begin` on into shared memory, sorted, as many as fit by whole digits. s.next:
// where the next chunk begins, kNoKey after the last one.
template <class Order>
NS_DEVICE void load_chunk(const Order& order, Key begin, SelectionMemory& s) {
  Key prefix = 0, end = kNoKey;  // of the keys whose digits are looked at
  for (int shift = kFirstShift;; shift -= kDigitBits) {
    count_digits(order, begin > prefix ? begin : prefix, end, shift, s);
    divide(s);
    if (s.digit == kDigits) break;
    prefix += static_cast<Key>(s.digit) << shift;
    if (s.before > 0) {
      end = prefix;
      break;
    }
    end = prefix + (Key{1} << shift);  // the first digit alone is too much: look at the next one below it
  }
  for_each_key(order, [&](Key key) {
    if (key >= begin && key < end) s.keys[count_up(&s.count, 1)] = key;
  });
  if (thread_id() == 0) s.next = end;
  __syncthreads();
  sort_keys(s);
}

// A row in an order, a chunk of it in shared memory.
template <class Order>
struct Chunks {
  Order order;
  bool at_first = false;  // its first chunk is there

  NS_DEVICE explicit Chunks(const Order& order_) : order(order_) {}
  NS_DEVICE void load_first(SelectionMemory& s) {
    if (!at_first) load(0, s);
    at_first = true;
  }
  NS_DEVICE void load_next(SelectionMemory& s) {
    load(s.next, s);
    at_first = false;
  }
  NS_DEVICE void weigh(SelectionMemory& s) const {
    for (int i = thread_id(); i < static_cast<int>(s.count); i += thread_count())
      s.weights[i] = order.weight(s.keys[i]);
    __syncthreads();
  }

 private:
  NS_DEVICE void load(Key begin, SelectionMemory& s) {
    load_chunk(order, begin, s);
    weigh(s);
  }
};

// One thread's way through the chunk: adds weights until there are `most`, the sum has reached `enough`, or a
// weight is 0; the first counts in any case. True: the walk has ended.
NS_DEVICE bool walk_chunk(Walk& walk, int most, double enough, const SelectionMemory& s) {
  constexpr int kStride = 4;  // with one comparison: the thread waits for nothing but additions
  const int count = static_cast<int>(s.count);
  int at = 0;
  while (at + kStride <= count && walk.count <= most - kStride && s.weights[at + kStride - 1] > 0.0F) {
    double ahead = walk.sum;
#pragma unroll
    for (int i = 0; i < kStride - 1; ++i) ahead = sum(ahead, static_cast<double>(s.weights[at + i]));
    if (!(ahead < enough)) break;
    walk.sum = sum(ahead, static_cast<double>(s.weights[at + kStride - 1]));
    walk.count += kStride;
    at += kStride;
    walk.last = s.keys[at - 1];
  }
  for (; at < count; ++at) {
    const bool goes_on = walk.count < most && (walk.count == 0 || walk.sum < enough);
    if (!goes_on || !(s.weights[at] > 0.0F)) return true;
    walk.sum = sum(walk.sum, static_cast<double>(s.weights[at]));
    walk.last = s.keys[at];
    ++walk.count;
  }
  return false;
}

// The same along the whole row, beginning with the sum `start`. Leaves its result in s.walk.
template <class Order>
NS_DEVICE void walk_row(Chunks<Order>& chunks, double start, int most, double enough, SelectionMemory& s) {
  if (thread_id() == 0) s.walk = {start, 0, 0};
  chunks.load_first(s);
  while (true) {
    if (thread_id() == 0) {
      Walk walk = s.walk;
      s.over = walk_chunk(walk, most, enough, s);
      s.walk = walk;
    }
    __syncthreads();
    if (s.over != 0 || s.next == kNoKey) return;
    chunks.load_next(s);  // with barriers: s.over may be written again
  }
}

}  // namespace nightshift::kernels::cuda
