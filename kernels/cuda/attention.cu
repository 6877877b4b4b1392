// SPDX-License-Identifier: Apache-2.0
// Rotary embedding, KV append and attention of the CUDA backend: work lists on the host, kernels on the GPU.
#include "kernels/cuda/attention.cuh"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/shape_check.h"

namespace nightshift::kernels::cuda {
namespace {

constexpr int kPrefillWarps = 4;
constexpr float kLog2e = 1.44269504088896341F;

struct Slice {
  std::int32_t first_row, tokens, start, first_block;
  std::int32_t context() const { return start + tokens; }
};

// What the kernels of one (group, window) work through; kept for the layers that follow.
struct WorkList {
  int group = 0, window = -1;
  std::vector<AttentionItem> wide;    // blocks of kPrefillWarps warps, all segments
  std::vector<AttentionItem> narrow;  // one warp, one segment
  std::vector<MergeItem> merges;
  std::int32_t partials = 0;
  Buffer device;  // wide, narrow, merges
};

Buffer device_memory(std::size_t bytes, const char* label) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), label);
  return {data, bytes, Device::cuda, label, [](void* memory, std::size_t) { cudaFree(memory); }};
}

class CudaAttentionBatch final : public AttentionBatch {
 public:
  CudaAttentionBatch(std::span<const SequenceSlice> slices, cudaStream_t stream) : stream_(stream) {
    for (const SequenceSlice& s : slices) add(s);
    upload();
  }

  std::int64_t rows() const override { return static_cast<std::int64_t>(positions_.size()); }
  int end_position() const { return end_position_; }
  BlockId highest_block() const { return highest_block_; }
  const std::int32_t* positions() const { return device_.as<std::int32_t>(); }
  const BlockId* row_blocks() const { return positions() + positions_.size(); }
  const BlockId* blocks() const { return row_blocks() + row_blocks_.size(); }

  const WorkList& work(int group, int window) const {
    for (const auto& list : lists_)
      if (list->group == group && list->window == window) return *list;
    lists_.push_back(make_work(group, window));
    return *lists_.back();
  }

 private:
  void add(const SequenceSlice& s) {
    const int end = s.start + s.num_tokens;
    NS_CHECK(s.first_row == rows() && s.num_tokens > 0 && s.start >= 0,
             "kernels::prepare: slice {} has rows from {} ({} tokens, start {}), expected rows from {}",
             slices_.size(), s.first_row, s.num_tokens, s.start, rows());
    NS_CHECK(static_cast<std::int64_t>(s.blocks.size()) * kKvBlockTokens >= end,
             "kernels::prepare: slice {} ends at position {} but has {} KV blocks of {} tokens",
             slices_.size(), end, s.blocks.size(), kKvBlockTokens);
    slices_.push_back({static_cast<std::int32_t>(s.first_row), s.num_tokens, s.start,
                       static_cast<std::int32_t>(blocks_.size())});
    for (const BlockId block :
         s.blocks.first(static_cast<std::size_t>(end + kKvBlockTokens - 1) / kKvBlockTokens)) {
      NS_CHECK(block >= 0, "kernels::prepare: slice {} has KV block {}", slices_.size() - 1, block);
      highest_block_ = std::max(highest_block_, block);
      blocks_.push_back(block);
    }
    for (int position = s.start; position < end; ++position) {
      positions_.push_back(position);
      row_blocks_.push_back(s.blocks[static_cast<std::size_t>(position / kKvBlockTokens)]);
    }
    end_position_ = std::max(end_position_, end);
  }

  void upload() {
    std::vector<std::int32_t> all(positions_);
    all.insert(all.end(), row_blocks_.begin(), row_blocks_.end());
    all.insert(all.end(), blocks_.begin(), blocks_.end());
    if (all.empty()) return;
    device_ = to_device(all.data(), all.size() * sizeof(std::int32_t), "kernels::batch");
  }

  Buffer to_device(const void* host, std::size_t bytes, const char* label) const {
    Buffer buffer = device_memory(bytes, label);
    check(cudaMemcpyAsync(buffer.data(), host, bytes, cudaMemcpyHostToDevice, stream_), label);
    return buffer;
  }

  std::unique_ptr<WorkList> make_work(int group, int window) const {
    auto list = std::make_unique<WorkList>();
    list->group = group;
    list->window = window;
    for (const Slice& s : slices_) {
      if (s.tokens * group <= kWarpRows) {
        add_narrow(*list, s);
      } else {
        add_wide(*list, s);
      }
    }
    // Dearest first, so that the last ones to be drawn are short.
    std::stable_sort(list->wide.begin(), list->wide.end(),
                     [&](const AttentionItem& a, const AttentionItem& b) {
                       return a.start + (a.first + a.rows) / group > b.start + (b.first + b.rows) / group;
                     });
    std::vector<std::byte> bytes;
    append(bytes, list->wide);
    append(bytes, list->narrow);
    append(bytes, list->merges);
    if (!bytes.empty()) list->device = to_device(bytes.data(), bytes.size(), "kernels::attention_work");
    return list;
  }

  template <class T>
  static void append(std::vector<std::byte>& bytes, const std::vector<T>& items) {
    const auto* first = reinterpret_cast<const std::byte*>(items.data());
    bytes.insert(bytes.end(), first, first + items.size() * sizeof(T));
  }

  static void add_wide(WorkList& list, const Slice& s) {
    const int all = s.tokens * list.group;
    for (int first = 0; first < all; first += kPrefillWarps * kWarpRows) {
      list.wide.push_back({s.first_row, s.start, s.context(), s.first_block, first,
                           std::min(kPrefillWarps * kWarpRows, all - first), -1, -1});
    }
  }

  // Few rows: a warp for each of their segments.
  static void add_narrow(WorkList& list, const Slice& s) {
    const int window = list.window;
    const int first_key = window > 0 && s.start >= window ? s.start - window + 1 : 0;
    const int begin = first_key / kSegmentTokens, end = (s.context() - 1) / kSegmentTokens + 1;
    AttentionItem item{s.first_row, s.start, s.context(), s.first_block, 0, s.tokens * list.group, begin, -1};
    if (end - begin > 1) list.merges.push_back({item, list.partials, end - begin});
    for (item.segment = begin; item.segment < end; ++item.segment) {
      if (end - begin > 1) item.partial = list.partials++;
      list.narrow.push_back(item);
    }
  }

  cudaStream_t stream_;
  std::vector<Slice> slices_;
  std::vector<std::int32_t> positions_;   // of each row
  std::vector<std::int32_t> row_blocks_;  // the block of each row's position
  std::vector<std::int32_t> blocks_;      // of the slices, one after the other
  BlockId highest_block_ = -1;
  int end_position_ = 0;
  Buffer device_;  // positions, row_blocks, blocks
  mutable std::vector<std::unique_ptr<WorkList>> lists_;
};

const CudaAttentionBatch& own(const char* operation, const AttentionBatch& batch) {
  const auto* ours = dynamic_cast<const CudaAttentionBatch*>(&batch);
  NS_CHECK(ours != nullptr, "kernels::{}: the batch was prepared by another backend", operation);
  return *ours;
}

void check_heads(const char* operation, const AttentionShape& shape, const CudaAttentionBatch& batch,
                 const KvCache& cache, int layer) {
  const KvShape& kv = cache.shape();
  NS_CHECK(shape.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.kv_heads == 0,
           "kernels::{}: {} heads over {} KV heads", operation, shape.heads, shape.kv_heads);
  NS_CHECK(shape.kv_heads == kv.kv_heads && shape.head_dim == kv.head_dim,
           "kernels::{}: {} KV heads of {} dimensions, the cache holds {} of {}", operation, shape.kv_heads,
           shape.head_dim, kv.kv_heads, kv.head_dim);
  NS_CHECK(layer >= 0 && layer < kv.layers, "kernels::{}: layer {} of {}", operation, layer, kv.layers);
  NS_CHECK(batch.highest_block() < kv.blocks, "kernels::{}: KV block {} of {}", operation,
           batch.highest_block(), kv.blocks);
}

template <int D>
void run_attention(AttentionArguments a, const WorkList& list, cudaStream_t stream) {
  const auto heads = static_cast<unsigned>(a.kv_heads);
  const auto* wide = list.device.as<AttentionItem>();
  const AttentionItem* narrow = wide + list.wide.size();
  const auto* merges = reinterpret_cast<const MergeItem*>(narrow + list.narrow.size());
  a.items = wide;
  launch("kernels::attention", attention_kernel<D, kPrefillWarps, true>,
         dim3(static_cast<unsigned>(list.wide.size()), heads), kPrefillWarps * kWarp,
         attention_shared_bytes(D, kPrefillWarps, true), stream, a);
  a.items = narrow;
  launch("kernels::attention", attention_kernel<D, 1, false>,
         dim3(static_cast<unsigned>(list.narrow.size()), heads), kWarp, attention_shared_bytes(D, 1, false),
         stream, a);
  launch("kernels::attention", merge_kernel<D>, dim3(static_cast<unsigned>(list.merges.size()), heads),
         4 * kWarp, 0, stream, a, merges);
}

}  // namespace

std::unique_ptr<AttentionBatch> CudaBackend::prepare(std::span<const SequenceSlice> slices) {
  return std::make_unique<CudaAttentionBatch>(slices, stream_);
}

void CudaBackend::rope(MatrixView<const float> qkv, const QkvLayout& layout, const AttentionBatch& batch_,
                       std::int64_t first_row, const Rope& rope, const HeadNorm& norm, MatrixView<bf16> out) {
  const CudaAttentionBatch& batch = own("rope", batch_);
  const AttentionShape& s = layout.shape;
  NS_CHECK(s.heads > 0 && s.kv_heads > 0 && s.head_dim > 0 && s.head_dim % 2 == 0,
           "kernels::rope: {} heads, {} KV heads of {} dimensions; head_dim must be even", s.heads,
           s.kv_heads, s.head_dim);
  NS_CHECK(layout.groups == 1 || (layout.groups > 0 && layout.group_stride >= layout.width()),
           "kernels::rope: {} groups of {} columns, {} apart", layout.groups, layout.width(),
           layout.group_stride);
  check_shape("rope", "qkv", qkv, qkv.rows,
              std::max(qkv.cols, (layout.groups - 1) * layout.group_stride + layout.width()));
  check_shape("rope", "out", out, layout.groups * qkv.rows, layout.width());
  NS_CHECK(first_row >= 0 && first_row + qkv.rows <= batch.rows(),
           "kernels::rope: rows {}..{} of a batch of {}", first_row, first_row + qkv.rows, batch.rows());
  check_shape("rope", "rope.sin", rope.sin, rope.cos.rows, rope.cos.cols);
  NS_CHECK(
      rope.cos.data == nullptr || (rope.cos.rows >= batch.end_position() && 2 * rope.cos.cols <= s.head_dim &&
                                   rope.sin.stride == rope.cos.stride),
      "kernels::rope: rope tables are {} x {}, need {} positions and at most {} columns", rope.cos.rows,
      rope.cos.cols, batch.end_position(), s.head_dim / 2);
  const RopeArguments a{qkv.data,
                        qkv.stride,
                        layout.group_stride,
                        qkv.rows,
                        s.heads,
                        s.kv_heads,
                        s.head_dim,
                        batch.positions() + first_row,
                        rope.cos.data,
                        rope.sin.data,
                        rope.cos.stride,
                        static_cast<int>(2 * rope.cos.cols),
                        norm.q,
                        norm.k,
                        norm.eps,
                        out.data,
                        out.stride};
  const dim3 grid(static_cast<unsigned>(qkv.rows), static_cast<unsigned>(layout.groups),
                  static_cast<unsigned>(s.heads + 2 * s.kv_heads));
  launch("kernels::rope", rope_kernel, grid, kWarp, sizeof(float) * static_cast<std::size_t>(s.head_dim),
         stream_, a);
}

void CudaBackend::append(MatrixView<const bf16> kv, const AttentionShape& shape, const AttentionBatch& batch_,
                         KvCache& cache, int layer) {
  const CudaAttentionBatch& batch = own("append", batch_);
  check_heads("append", shape, batch, cache, layer);
  check_shape("append", "kv", kv, batch.rows(),
              2 * static_cast<std::int64_t>(shape.kv_heads) * shape.head_dim);
  const AppendArguments a{kv.data,           kv.stride,          shape.kv_heads,         shape.head_dim,
                          batch.positions(), batch.row_blocks(), cache.head(layer, 0, 0)};
  launch("kernels::append", append_kernel,
         dim3(static_cast<unsigned>(kv.rows), static_cast<unsigned>(2 * shape.kv_heads)), 2 * kWarp, 0,
         stream_, a);
}

void CudaBackend::attention(MatrixView<const bf16> q, const AttentionShape& shape,
                            const AttentionBatch& batch_, const KvCache& cache, int layer, float scale,
                            int window, MatrixView<bf16> out) {
  const CudaAttentionBatch& batch = own("attention", batch_);
  check_heads("attention", shape, batch, cache, layer);
  const std::int64_t columns = static_cast<std::int64_t>(shape.heads) * shape.head_dim;
  check_shape("attention", "q", q, batch.rows(), columns);
  check_shape("attention", "out", out, batch.rows(), columns);
  NS_CHECK(scale > 0.0F && window >= 0, "kernels::attention: scale {}, window {}", scale, window);
  NS_CHECK(q.stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(q.data) % 16 == 0,
           "kernels::attention: rows of q must start at multiples of 16 bytes (stride {})", q.stride);
  const WorkList& list = batch.work(shape.heads / shape.kv_heads, window);
  AttentionArguments a{};
  a.q = q.data;
  a.out = out.data;
  a.q_stride = q.stride;
  a.out_stride = out.stride;
  a.kv = cache.head(layer, 0, 0);
  a.blocks = batch.blocks();
  a.kv_heads = shape.kv_heads;
  a.group = list.group;
  a.window = window;
  a.scale = scale * kLog2e;
  const std::size_t slots =
      static_cast<std::size_t>(list.partials) * static_cast<std::size_t>(shape.kv_heads);
  const std::size_t sums = slots * kWarpRows * static_cast<std::size_t>(shape.head_dim);
  a.partial_sums =
      static_cast<float*>(scratch_.reserve((sums + slots * 2 * kWarpRows) * sizeof(float), stream_));
  a.partial_scales = a.partial_sums + sums;
  switch (shape.head_dim) {
    case 16:
      return run_attention<16>(a, list, stream_);
    case 32:
      return run_attention<32>(a, list, stream_);
    case 64:
      return run_attention<64>(a, list, stream_);
    case 80:
      return run_attention<80>(a, list, stream_);
    case 96:
      return run_attention<96>(a, list, stream_);
    case 128:
      return run_attention<128>(a, list, stream_);
    case 256:
      return run_attention<256>(a, list, stream_);
    default:
      NS_CHECK(false, "kernels::attention: heads of {} dimensions", shape.head_dim);
  }
}

}  // namespace nightshift::kernels::cuda
