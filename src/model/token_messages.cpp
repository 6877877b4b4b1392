// SPDX-License-Identifier: Apache-2.0
#include "model/token_messages.h"

#include <cstring>
#include <vector>

namespace nightshift::model {

namespace {

// A sampled token's part of a message; then as many TokenLogprobs as its parameters allow.
struct TokenMessage {
  TokenId token;
  float logprob;
  std::int32_t tops;
};
std::size_t token_bytes(const PlannedSequence& sequence) {
  return sizeof(TokenMessage) + static_cast<std::size_t>(sequence.sampling->logprobs) * sizeof(TokenLogprob);
}

void write_token(const SampledToken& token, std::byte* to) {
  const TokenMessage head{token.token, token.logprob, static_cast<std::int32_t>(token.top.size())};
  std::memcpy(to, &head, sizeof head);
  if (!token.top.empty())
    std::memcpy(to + sizeof head, token.top.data(), token.top.size() * sizeof(TokenLogprob));
}

SampledToken read_token(const std::byte* from, SequenceId id) {
  TokenMessage head;
  std::memcpy(&head, from, sizeof head);
  SampledToken token{.id = id, .token = head.token, .logprob = head.logprob, .top = {}};
  token.top.resize(static_cast<std::size_t>(head.tops));
  if (head.tops > 0)
    std::memcpy(token.top.data(), from + sizeof head, token.top.size() * sizeof(TokenLogprob));
  return token;
}

}  // namespace

void share_slices(const parallel::Communicator& group, std::span<const PlannedSequence* const> rows,
                  std::span<SampledToken> tokens) {
  const auto count = static_cast<std::int64_t>(rows.size());
  std::vector<std::int64_t> sizes;      // of what each rank tells
  std::vector<std::size_t> offsets{0};  // of every row's part
  for (int r = 0; r < group.size(); ++r) {
    const std::size_t begin = offsets.back();
    const parallel::Range slice = parallel::slice_of(count, group.size(), r);
    for (std::int64_t i = slice.begin; i < slice.end; ++i)
      offsets.push_back(offsets.back() + token_bytes(*rows[static_cast<std::size_t>(i)]));
    sizes.push_back(static_cast<std::int64_t>(offsets.back() - begin));
  }
  std::vector<std::byte> message(offsets.back());
  const parallel::Range own = parallel::slice_of(count, group.size(), group.rank());
  for (std::int64_t i = own.begin; i < own.end; ++i)
    write_token(tokens[static_cast<std::size_t>(i)], message.data() + offsets[static_cast<std::size_t>(i)]);
  group.all_gather(parallel::Traffic::sampling, message.data(), sizes);
  for (std::size_t i = 0; i < rows.size(); ++i)
    tokens[i] = read_token(message.data() + offsets[i], rows[i]->id);
}

}  // namespace nightshift::model
