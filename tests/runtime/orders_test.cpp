// SPDX-License-Identifier: Apache-2.0
#include "runtime/orders.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "core/check.h"
#include "core/params.h"

namespace nightshift::runtime {
namespace {

using Random = std::mt19937_64;

template <class T>
std::vector<T> numbers(Random& random, std::size_t most) {
  std::vector<T> list(random() % (most + 1));
  for (T& one : list) one = static_cast<T>(random());
  return list;
}

SamplingParams random_params(Random& random) {
  SamplingParams p;
  p.max_tokens = static_cast<std::int64_t>(random());
  p.min_tokens = static_cast<std::int64_t>(random());
  p.temperature = std::bit_cast<double>(random() >> 2);  // any positive one, denormals too
  p.top_p = static_cast<double>(random()) / 3.0;
  p.top_k = static_cast<std::int64_t>(random());
  p.min_p = -0.0;
  p.repetition_penalty = std::numeric_limits<double>::infinity();
  p.presence_penalty = -static_cast<double>(random());
  p.frequency_penalty = std::numeric_limits<double>::denorm_min();
  p.seed = random();
  p.own_seed = random() % 2 == 0;
  for (std::uint64_t i = random() % 4; i > 0; --i) {
    const auto bytes = numbers<unsigned char>(random, 20);  // no text at all, zero bytes included
    p.stop.emplace_back(bytes.begin(), bytes.end());
  }
  p.stop_token_ids = numbers<TokenId>(random, 5);
  p.ignore_eos = random() % 2 == 0;
  p.n = static_cast<std::int64_t>(random());
  p.logprobs = static_cast<std::int64_t>(random());
  return p;
}

Orders random_orders(Random& random) {
  Orders orders;
  orders.stop = numbers<SequenceId>(random, 6);
  orders.cancel = numbers<SequenceId>(random, 3);
  for (std::uint64_t i = random() % 4; i > 0; --i) {
    orders.admitted.push_back({random(), numbers<TokenId>(random, 400), random_params(random), random(),
                               numbers<TokenId>(random, 9)});
  }
  orders.closed = random() % 2 == 0;
  orders.end = random() % 2 == 0;
  return orders;
}

void expect_equal(const SamplingParams& a, const SamplingParams& b) {
  EXPECT_EQ(a.max_tokens, b.max_tokens);
  EXPECT_EQ(a.min_tokens, b.min_tokens);
  EXPECT_EQ(a.temperature, b.temperature);
  EXPECT_EQ(a.top_p, b.top_p);
  EXPECT_EQ(a.top_k, b.top_k);
  EXPECT_EQ(std::signbit(a.min_p), std::signbit(b.min_p));
  EXPECT_EQ(a.repetition_penalty, b.repetition_penalty);
  EXPECT_EQ(a.presence_penalty, b.presence_penalty);
  EXPECT_EQ(a.frequency_penalty, b.frequency_penalty);
  EXPECT_EQ(a.seed, b.seed);
  EXPECT_EQ(a.own_seed, b.own_seed);
  EXPECT_EQ(a.stop, b.stop);
  EXPECT_EQ(a.stop_token_ids, b.stop_token_ids);
  EXPECT_EQ(a.ignore_eos, b.ignore_eos);
  EXPECT_EQ(a.n, b.n);
  EXPECT_EQ(a.logprobs, b.logprobs);
}

TEST(Orders, ArriveAsTheyWereSent) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    const Orders sent = random_orders(random);
    const Orders got = Orders::decode(sent.encode());
    EXPECT_EQ(got.stop, sent.stop);
    EXPECT_EQ(got.cancel, sent.cancel);
    EXPECT_EQ(got.closed, sent.closed);
    EXPECT_EQ(got.end, sent.end);
    ASSERT_EQ(got.admitted.size(), sent.admitted.size());
    for (std::size_t i = 0; i < sent.admitted.size(); ++i) {
      EXPECT_EQ(got.admitted[i].id, sent.admitted[i].id);
      EXPECT_EQ(got.admitted[i].prompt, sent.admitted[i].prompt);
      EXPECT_EQ(got.admitted[i].random_key, sent.admitted[i].random_key);
      EXPECT_EQ(got.admitted[i].output, sent.admitted[i].output);
      expect_equal(got.admitted[i].params, sent.admitted[i].params);
    }
  }
}

TEST(Orders, AreSmallWhenThereIsLittleToSay) {
  EXPECT_LE(Orders().encode().size(), 32u);
}

TEST(Orders, AreRefusedWhenCutAnywhereOrLongerThanSent) {
  Random random(2);
  for (int round = 0; round < 20; ++round) {
    const std::string text = random_orders(random).encode();
    for (std::size_t size = 0; size < text.size(); ++size)
      EXPECT_THROW(Orders::decode(std::string_view(text).substr(0, size)), Error) << size;
    EXPECT_THROW(Orders::decode(text + '\0'), Error);
  }
}

// Whatever a length says, nothing is read or allocated that the message cannot hold.
TEST(Orders, DamagedOnesAreRefusedOrHarmless) {
  Random random(3);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string text = random_orders(random).encode();
    for (int i = 0; i < 3; ++i) text[random() % text.size()] = static_cast<char>(random());
    try {
      Orders::decode(text);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace nightshift::runtime
