// SPDX-License-Identifier: Apache-2.0
// Rotary embedding, KV append and attention of the CUDA backend: work lists on the host, kernels on the GPU.
#include "kernels/cuda/attention.cuh"

#include <algorithm>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/side_stream.h"
#include "kernels/shape_check.h"

namespace nightshift::kernels::cuda {
namespace {

constexpr float kLog2e = 1.44269504088896341F;

const CudaAttentionBatch& own(const char* operation, const AttentionBatch& batch) {
  const auto* ours = dynamic_cast<const CudaAttentionBatch*>(&batch);
  NS_CHECK(ours != nullptr, "kernels::{}: the batch was prepared by another backend", operation);
  if (ours->rows() > 0) ours->check_current(operation);
  return *ours;
}

template <int D, int kWarps>
void run_wide_by(AttentionArguments a, const WorkList& list, cudaStream_t stream) {
  a.items = list.device_wide;
  launch("kernels::attention", attention_kernel<D, kWarps, true>,
         dim3(static_cast<unsigned>(list.wide.size()), static_cast<unsigned>(a.kv_heads)), kWarps * kWarp,
         attention_shared_bytes(D, kWarps, true), stream, a);
}

// The most and the least warps of a wide block that any GPU here takes: large heads fill the shared memory.
constexpr int most_wide_warps(int head_dim) {
  return head_dim <= 128 ? 4 : 2;
}
constexpr int least_wide_warps(int head_dim) {
  return head_dim <= 96 ? 4 : most_wide_warps(head_dim) / 2;
}

int wide_warps(int head_dim, std::size_t most_shared) {
  for (const int warps : {most_wide_warps(head_dim), least_wide_warps(head_dim)})
    if (attention_shared_bytes(head_dim, warps, true) <= most_shared) return warps;
  return 0;
}

template <int D>
void run_wide(const AttentionArguments& a, const WorkList& list, cudaStream_t stream) {
  if (list.warps == most_wide_warps(D)) return run_wide_by<D, most_wide_warps(D)>(a, list, stream);
  NS_CHECK(list.warps == least_wide_warps(D), "kernels::attention: blocks of {} warps", list.warps);
  run_wide_by<D, least_wide_warps(D)>(a, list, stream);
}

template <int D>
void run_narrow(AttentionArguments a, const WorkList& list, cudaStream_t stream) {
  const auto heads = static_cast<unsigned>(a.kv_heads);
  a.items = list.device_narrow;
  launch("kernels::attention", attention_kernel<D, 1, false>,
         dim3(static_cast<unsigned>(list.narrow.size()), heads), kWarp, attention_shared_bytes(D, 1, false),
         stream, a);
  launch("kernels::attention", merge_kernel<D>, dim3(static_cast<unsigned>(list.merges.size()), heads),
         4 * kWarp, 0, stream, a, list.device_merges);
}

template <int D>
void run_attention(const AttentionArguments& a, const WorkList& list, cudaStream_t stream, SideStream& side) {
  if (list.wide.empty()) return run_narrow<D>(a, list, stream);
  if (list.narrow.empty()) return run_wide<D>(a, list, stream);
  side.together([&](cudaStream_t beside) { run_narrow<D>(a, list, beside); },
                [&](cudaStream_t main) { run_wide<D>(a, list, main); });
}

}  // namespace

std::unique_ptr<AttentionBatch> CudaBackend::prepare(std::span<const SequenceSlice> slices,
                                                     const AttentionLayers& layers) {
  const AttentionCut cut = layers.windows.empty() ? AttentionCut{} : cut_for(layers.shape);
  return std::make_unique<CudaAttentionBatch>(slices, layers, cut, *step_memory_);
}

AttentionCut CudaBackend::cut_for(const AttentionShape& shape) const {
  constexpr std::size_t kLeastRoom = std::size_t{256} << 20;
  const std::size_t each =
      partial_floats(shape.head_dim) * static_cast<std::size_t>(shape.kv_heads) * sizeof(float);
  return {wide_warps(shape.head_dim, most_shared_),
          static_cast<int>(std::max(scratch_->bytes(), kLeastRoom) / each)};
}

bool CudaBackend::takes_head_dim(int head_dim) const {
  return std::find(kHeadDims.begin(), kHeadDims.end(), head_dim) != kHeadDims.end() &&
         wide_warps(head_dim, most_shared_) > 0;
}

void CudaBackend::rope(MatrixView<const float> qkv, const QkvLayout& layout, const AttentionBatch& batch_,
                       std::int64_t first_row, const Rope& rope, const HeadNorm& norm, MatrixView<bf16> out) {
  const CudaAttentionBatch& batch = own("rope", batch_);
  const AttentionShape& s = layout.shape;
  check_rope(qkv, layout, batch.rows(), batch.end_position(), first_row, rope, out);
  NS_CHECK(rope.sin.stride == rope.cos.stride, "kernels::rope: rope tables of strides {} and {}",
           rope.cos.stride, rope.sin.stride);
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
  check_heads("append", shape, batch.highest_block(), cache, layer);
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
  check_attention(q, shape, batch.rows(), batch.highest_block(), cache, layer, scale, window, out);
  NS_CHECK(q.stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(q.data) % 16 == 0,
           "kernels::attention: rows of q must start at multiples of 16 bytes (stride {})", q.stride);
  const WorkList& list = batch.work(shape.heads / shape.kv_heads, window, cut_for(shape));
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
  a.partial_sums = static_cast<float*>(scratch_->reserve((sums + slots * 2 * kWarpRows) * sizeof(float)));
  a.partial_scales = a.partial_sums + sums;
  switch (shape.head_dim) {
    case 16:
      return run_attention<16>(a, list, stream_, *side_);
    case 32:
      return run_attention<32>(a, list, stream_, *side_);
    case 64:
      return run_attention<64>(a, list, stream_, *side_);
    case 80:
      return run_attention<80>(a, list, stream_, *side_);
    case 96:
      return run_attention<96>(a, list, stream_, *side_);
    case 128:
      return run_attention<128>(a, list, stream_, *side_);
    case 256:
      return run_attention<256>(a, list, stream_, *side_);
    default:
      NS_CHECK(false, "kernels::attention: heads of {} dimensions", shape.head_dim);
  }
}

}  // namespace nightshift::kernels::cuda
