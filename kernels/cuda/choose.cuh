// SPDX-License-Identifier: Apache-2.0
// From a row of logits to a token, one block a row: the passes of model/sampler.cpp in its order of
// additions. A row stays in the L2 cache between them.
#pragma once

#include "kernels/cuda/selection.cuh"
#include "kernels/device_sampler.h"

namespace nightshift::kernels::cuda {

NS_DEVICE Best better(const Best& a, const Best& b) {
  const bool first = a.value > b.value || (a.value == b.value && a.id < b.id);
  return {first ? a.value : b.value, first ? a.id : b.id, a.unusable | b.unusable};
}

NS_DEVICE Best best_of_warp(Best best) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    best = better(best, {from_lane_xor(best.value, mask), from_lane_xor(best.id, mask),
                         from_lane_xor(best.unusable, mask)});
  return best;
}

// The largest logit and its lowest id; the same in every thread.
NS_DEVICE Best best_of_row(const float* row, int vocab, SelectionMemory& s) {
  const Best none{float_of(kMinusInfinity), kAll, 0};
  Best best = none;
  for (int c = thread_id(); c < vocab; c += thread_count()) {
    const float logit = row[c];
    if (logit > best.value) {
      best.value = logit;
      best.id = c;
    }
    best.unusable |= !(logit < float_of(kInfinity));
  }
  best = best_of_warp(best);
  const int lane = thread_id() % kWarp;
  if (lane == 0) s.warp_best[thread_id() / kWarp] = best;
  __syncthreads();
  best = best_of_warp(lane < thread_count() / kWarp ? s.warp_best[lane] : none);
  __syncthreads();  // s.warp_best may be written again
  best.unusable |= best.id == kAll;
  return best;
}

// Sums of the weights of kBlockTokens neighbours each: eight interleaved chains, joined pairwise, a thread
// for each chain.
NS_DEVICE void sum_blocks(const float* row, int vocab, const Weight& weigh, SelectionMemory& s) {
  constexpr int kLanes = 8, kAhead = 4;  // loads run ahead of the additions
  const int chains = (vocab + kBlockTokens - 1) / kBlockTokens * kLanes;
  for (int first = 0; first < chains; first += thread_count()) {  // every thread takes part in the shuffles
    const int chain = first + thread_id(), block = chain / kLanes;
    const int begin = block * kBlockTokens + chain % kLanes;
    const int end = vocab < (block + 1) * kBlockTokens ? vocab : (block + 1) * kBlockTokens;
    double total = 0.0;
    for (int c = begin; c < end; c += kAhead * kLanes) {
      float logits[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) logits[i] = row[c + i * kLanes < end ? c + i * kLanes : c];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (c + i * kLanes < end) total = sum(total, static_cast<double>(weigh(logits[i])));
    }
    for (int mask = 1; mask < kLanes; mask *= 2) total = sum(total, from_lane_xor(total, mask));
    if (chain < chains && chain % kLanes == 0) s.block_sums[block] = total;
  }
  __syncthreads();
}

// One after the other; every thread does it for itself.
NS_DEVICE double sum_of_blocks(int vocab, const SelectionMemory& s) {
  double total = 0.0;
  for (int block = 0; block * kBlockTokens < vocab; ++block) total = sum(total, s.block_sums[block]);
  return total;
}

// The first token, in the order of ids, at which the running sum of weights exceeds u times their total.
NS_DEVICE TokenId draw_from(Chunks<ById>& kept, double u, SelectionMemory& s) {
  walk_row(kept, 0.0, kAll, static_cast<double>(float_of(kInfinity)), s);
  const double target = product(u, s.walk.sum);
  __syncthreads();  // s.walk may be written again
  walk_row(kept, 0.0, kAll, next_above(target), s);
  return ById::id(s.walk.last);
}

// Out of the tokens that the walk along `chunks` has kept.
NS_DEVICE TokenId draw(const Chunks<ByLikelihood>& chunks, double u, SelectionMemory& s) {
  const ByLikelihood& order = chunks.order;
  const int kept = s.walk.count;
  Chunks<ById> by_id(ById{order.row, order, s.walk.last, order.begin, order.end});
  if (chunks.at_first && kept <= static_cast<int>(s.count)) {  // all of them are in shared memory
    for (int i = thread_id(); i < kept; i += thread_count())
      s.keys[i] = ById::key_of(ByLikelihood::id(s.keys[i]), s.weights[i]);
    __syncthreads();
    if (thread_id() == 0) {
      s.count = static_cast<std::uint32_t>(kept);
      s.next = kNoKey;
    }
    __syncthreads();
    sort_keys(s);
    by_id.at_first = true;
    by_id.weigh(s);
  }
  __syncthreads();  // s.walk may be written again
  return draw_from(by_id, u, s);
}

// Out of all tokens: by the sums of blocks to the block, and through it.
NS_DEVICE TokenId draw_from_all(const ByLikelihood& order, double u, SelectionMemory& s) {
  sum_blocks(order.row, order.end, order.weigh, s);
  const double target = product(u, sum_of_blocks(order.end, s));
  int chosen = 0;
  double running = 0.0, before = 0.0;
  for (int block = 0; block * kBlockTokens < order.end && running <= target; ++block) {
    if (s.block_sums[block] > 0.0) {
      chosen = block;
      before = running;
    }
    running = sum(running, s.block_sums[block]);
  }
  const int begin = chosen * kBlockTokens, end = begin + kBlockTokens;
  Chunks<ById> block(ById{order.row, order, kNoKey - 1, begin, end < order.end ? end : order.end});
  walk_row(block, before, kAll, next_above(target), s);
  return ById::id(s.walk.last);
}

// `best` of the row after its edits, usable.
NS_DEVICE TokenId choose(const float* row, int vocab, const Best& best, const SamplingRow& p,
                         SelectionMemory& s) {
  if (p.greedy != 0) return best.id;
  const ByLikelihood order{row, {best.value, p.inverse_temperature, p.min_p}, 0, vocab};
  if (p.top_k <= 0 && p.top_p >= 1.0) return draw_from_all(order, p.u, s);
  double enough = static_cast<double>(float_of(kInfinity));
  if (p.top_k <= 0) {
    sum_blocks(row, vocab, order.weigh, s);
    enough = product(p.top_p, sum_of_blocks(vocab, s));
  }
  Chunks<ByLikelihood> chunks(order);
  walk_row(chunks, 0.0, p.top_k > 0 ? p.top_k : kAll, enough, s);
  if (p.top_k > 0) {  // of these, those that reach top_p of their weight
    const int most = s.walk.count;
    enough = product(p.top_p, s.walk.sum);
    __syncthreads();  // s.walk may be written again
    walk_row(chunks, 0.0, most, enough, s);
  }
  return draw(chunks, p.u, s);
}

NS_DEVICE float penalised(float logit, int times, const SamplingRow& p) {
  const double value = static_cast<double>(logit);
  const double repeated =
      logit > 0.0F ? quotient(value, p.repetition_penalty) : product(value, p.repetition_penalty);
  const double often = difference(repeated, product(static_cast<double>(times), p.frequency_penalty));
  return rounded(difference(often, times > 0 ? p.presence_penalty : 0.0));
}

// Masks and penalties, in place; the originals go where the edits' counts stood. Each edit is one thread's.
NS_DEVICE void edit_row(float* row, int vocab, TokenEdit* edits, const TokenId* previous,
                        const SamplingRow& p, SelectionMemory& s) {
  const TokenId pending = p.pending < 0 ? -1 : previous[p.pending];
  if (thread_id() == 0) s.pending = pending < vocab ? pending : -1;
  __syncthreads();
  for (int i = thread_id(); i < p.edits; i += thread_count()) {
    const bool masked = edits[i].id < 0;
    const TokenId id = masked ? ~edits[i].id : edits[i].id;
    int times = edits[i].times;
    if (id == pending) {
      times = times < 0 ? 1 : times + 1;
      s.pending = -1;
    }
    const float original = row[id];
    const float logit = masked ? float_of(kMinusInfinity) : original;
    row[id] = times < 0 ? logit : penalised(logit, times, p);
    edits[i].times = static_cast<std::int32_t>(bits_of(original));
  }
  __syncthreads();
  if (thread_id() == 0 && s.pending >= 0) {
    s.pending_logit = row[s.pending];
    row[s.pending] = penalised(s.pending_logit, 1, p);
  }
  __syncthreads();
}

// Everybody has read the edited row: each pass over it ends with a barrier.
NS_DEVICE void restore_row(float* row, const TokenEdit* edits, const SamplingRow& p,
                           const SelectionMemory& s) {
  for (int i = thread_id(); i < p.edits; i += thread_count()) {
    const TokenId id = edits[i].id < 0 ? ~edits[i].id : edits[i].id;
    row[id] = float_of(static_cast<std::uint32_t>(edits[i].times));
  }
  if (thread_id() == 0 && s.pending >= 0) row[s.pending] = s.pending_logit;
  __syncthreads();
}

// The most likely, best first; how many there are.
NS_DEVICE int list_top(const float* row, int vocab, int most, ScoredToken* top, SelectionMemory& s) {
  const ByLikelihood order{row, {0.0F, 1.0F, 0.0F}, 0, vocab};
  int listed = 0;
  for (Key begin = 0; begin != kNoKey && listed < most; begin = s.next) {
    load_chunk(order, begin, s);
    const int count = static_cast<int>(s.count) < most - listed ? static_cast<int>(s.count) : most - listed;
    for (int i = thread_id(); i < count; i += thread_count()) {
      const int id = ByLikelihood::id(s.keys[i]);
      top[listed + i] = {id, row[id]};
    }
    listed += count;
    __syncthreads();  // shared memory may be written again
  }
  return listed;
}

// The sum and the top list of the unmodified row.
NS_DEVICE void describe(const float* row, int vocab, float maximum, int most, ScoredToken* top,
                        SampledRow& out, SelectionMemory& s) {
  sum_blocks(row, vocab, {maximum, 1.0F, 0.0F}, s);
  const double total = sum_of_blocks(vocab, s);
  if (thread_id() == 0) out.sum = total;
  const int listed = list_top(row, vocab, most, top, s);
  if (thread_id() == 0) out.tops = listed;
}

// What a row asks for is read where it is needed: the passes want the registers.
NS_KERNEL_OF(kMostThreads) choose_kernel(MatrixView<float> logits, int vocab, SamplingCall call) {
  NS_DYNAMIC_SHARED(shared);
  SelectionMemory& s = *reinterpret_cast<SelectionMemory*>(shared);
  float* row = logits.data + blockIdx.x * logits.stride;
  const SamplingRow& p = call.rows[blockIdx.x];
  SampledRow& out = call.results[blockIdx.x];
  Best best = best_of_row(row, vocab, s);
  if (thread_id() == 0) out = {0.0, best.value, 0.0F, -1, 0};
  TokenId token = -1;
  if (best.unusable == 0) {
    if (p.logprobs > 0)
      describe(row, vocab, best.value, p.logprobs, call.top.data + blockIdx.x * call.top.stride, out, s);
    const bool edited = p.edits > 0 || p.pending >= 0;
    if (edited) {
      edit_row(row, vocab, call.edits + p.first_edit, call.previous, p, s);
      best = best_of_row(row, vocab, s);
    }
    if (best.unusable == 0) token = choose(row, vocab, best, p, s);
    if (edited) restore_row(row, call.edits + p.first_edit, p, s);
  }
  if (thread_id() != 0) return;
  call.tokens[blockIdx.x] = out.token = token;
  if (token >= 0) out.logit = row[token];
}

}  // namespace nightshift::kernels::cuda
