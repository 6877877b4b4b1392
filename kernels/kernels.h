// SPDX-License-Identifier: Apache-2.0
// The arithmetic of a transformer: one operation, one interface, one set of files per backend.
//
// A Backend executes operations in the order in which they are called and owns that order: calls may return
// before the work is done, synchronize() waits (on CPU every call is finished when it returns). All pointers
// handed to operations are device pointers of that backend (on CPU: ordinary memory) and stay valid until the
// work is done. Matrices are row-major with a row stride in elements. Every operation checks shapes at the
// door and throws Error.
//
// What every backend guarantees, tested with equality:
//  - a row of a result depends on that row's inputs only: never on the other rows of the call, their number,
//  the tiles
//    or the threads. (Batch invariance; He et al., "Defeating Nondeterminism in LLM Inference", 2025.)
//  - gemm: one accumulation chain per element, in K order.
//  - row-parallel products: kReductionShards chains, added in one binary tree (see tree_sum), so that ranks
//  which hold
//    a subtree each reproduce one rank's bits. (Zhang et al., "Tree-based invariant kernels", 2025, arXiv
//    2511.17826.)
//  - attention: KV tiles at absolute positions, merged in position order by online softmax (Milakov and
//  Gimelshein
//    2018; Dao et al., FlashAttention, 2022), so prefill, decode, any chunking and prefix hits agree.
// Bits differ between kernel sets (kernel_set()), not within one. Arithmetic: bf16 products, fp32 sums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "core/types.h"

namespace nightshift::kernels {

// Starts and ends the compute libraries of this process. Construct it in main after the MPI environment;
// every Backend and Buffer must be gone before it is. threads = 0: OMP_NUM_THREADS, else the cores this
// process is bound to.
class Environment {
 public:
  explicit Environment(int threads = 0);
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  int threads() const { return threads_; }

 private:
  int threads_;
};

enum class Device : std::uint8_t { cpu, cuda };
constexpr const char* name_of(Device device) {
  return device == Device::cpu ? "cpu" : "cuda";
}

// A row-major matrix somewhere on a device: element (r, c) is data[r * stride + c]. Does not own.
template <class T>
struct MatrixView {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;  // elements from row to row, >= cols

  MatrixView() = default;
  MatrixView(T* data_, std::int64_t rows_, std::int64_t cols_, std::int64_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}
  MatrixView(T* data_, std::int64_t rows_, std::int64_t cols_) : MatrixView(data_, rows_, cols_, cols_) {}
  operator MatrixView<const T>() const { return {data, rows, cols, stride}; }

  T* row(std::int64_t r) const { return data + r * stride; }
  MatrixView rows_from(std::int64_t first, std::int64_t count) const {
    return {row(first), count, cols, stride};
  }
  MatrixView cols_from(std::int64_t first, std::int64_t count) const {
    return {data + first, rows, count, stride};
  }
};

// Memory on a device, 64-byte aligned, freed with its last owner. Large CPU buffers ask for huge pages.
// Contents are undefined; debug builds fill them with NaN patterns. `label` ("model::logits") names it in
// errors.
class Buffer {
 public:
  using Release = void (*)(void* data, std::size_t bytes);

  Buffer() = default;
  Buffer(void* data, std::size_t bytes, Device device, const char* label, Release release)
      : data_(data), bytes_(bytes), device_(device), label_(label), release_(release) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) release_(data_, bytes_);
  }

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  const char* label() const { return label_; }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    std::swap(label_, other.label_);
    std::swap(release_, other.release_);
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Device device_ = Device::cpu;
  const char* label_ = "";
  Release release_ = nullptr;
};

// A matrix that owns its buffer; rows lie back to back.
template <class T>
class Matrix {
 public:
  Matrix() = default;
  Matrix(Buffer buffer, std::int64_t rows, std::int64_t cols)
      : buffer_(std::move(buffer)), rows_(rows), cols_(cols) {}
  MatrixView<T> view() const { return {buffer_.as<T>(), rows_, cols_}; }
  operator MatrixView<T>() const { return view(); }
  operator MatrixView<const T>() const { return view(); }
  T* data() const { return buffer_.as<T>(); }
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }

 private:
  Buffer buffer_;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
};

// Weights W [N, K] in the layout that the gemm kernels of one backend read. Rows go in panels of kPanelRows;
// N is padded with zero rows to whole panels. Views copy nothing:
//   columns(first, count)  a column-parallel shard (output features); first is a multiple of kPanelRows
//   k_range(begin, end)    a row-parallel shard (input features); begin and end are even
inline constexpr std::int64_t kPanelRows = 64;

struct PackedView {
  const bf16* data = nullptr;          // CPU: [panels][K / 2][64 rows][2]; GPU: [panels][64 rows][K]
  std::int64_t n = 0;                  // rows that exist (without padding)
  std::int64_t k = 0;                  // even
  std::int64_t panel_stride = 0;       // elements from panel to panel, 64 * (K of the whole matrix)
  std::int64_t k_stride = kPanelRows;  // elements from an even k to the next k of its row's panel; GPU: 1

  PackedView columns(std::int64_t first, std::int64_t count) const;
  PackedView k_range(std::int64_t begin, std::int64_t end) const;
};

class PackedMatrix {
 public:
  enum class Order : std::uint8_t { pairs, rows };  // of a panel: as the CPU and as GPUs read it

  PackedMatrix() = default;
  PackedMatrix(Buffer owned, bf16* data, std::int64_t n, std::int64_t k, Order order = Order::pairs)
      : owned_(std::move(owned)), data_(data), n_(n), k_(k), order_(order) {}
  PackedView view() const {
    return {data_, n_, k_, kPanelRows * k_, order_ == Order::pairs ? kPanelRows : 1};
  }
  operator PackedView() const { return view(); }
  bf16* data() const { return data_; }
  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }

 private:
  Buffer owned_;  // empty when the memory belongs to somebody else, e.g. a shared-memory window
  bf16* data_ = nullptr;
  std::int64_t n_ = 0;
  std::int64_t k_ = 0;
  Order order_ = Order::pairs;
};

// The paged KV cache of the heads this rank owns, all layers, bf16, kKvBlockTokens tokens a block. The layout
// inside a block is the backend's. CPU: layer, block, KV head, then K [ceil(D / 2)][16 tokens][2] and V [8
// token pairs][Dp][2], Dp = D rounded up to 16.
struct KvShape {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;  // even
  std::int64_t blocks = 0;
};

class KvCache {
 public:
  KvCache() = default;
  KvCache(Buffer buffer, KvShape shape, std::int64_t head_stride)
      : buffer_(std::move(buffer)), shape_(shape), head_stride_(head_stride) {}
  const KvShape& shape() const { return shape_; }
  std::int64_t head_stride() const { return head_stride_; }  // elements of one head of one block, K and V
  bf16* head(int layer, BlockId block, int kv_head) const {
    return buffer_.as<bf16>() +
           ((static_cast<std::int64_t>(layer) * shape_.blocks + block) * shape_.kv_heads + kv_head) *
               head_stride_;
  }
  std::size_t bytes() const { return buffer_.bytes(); }

 private:
  Buffer buffer_;
  KvShape shape_;
  std::int64_t head_stride_ = 0;
};

// One sequence's query tokens in a step: rows first_row .. first_row + num_tokens - 1 of the batch are its
// positions start .. start + num_tokens - 1; logical block i of `blocks` holds positions [16 i, 16 i + 16).
struct SequenceSlice {
  std::int64_t first_row = 0;
  int num_tokens = 0;
  int start = 0;
  std::span<const BlockId> blocks;
};

// A step's sequences, made ready once and used by all layers (device copies, work list). Copies what it
// needs.
class AttentionBatch {
 public:
  virtual ~AttentionBatch() = default;
  virtual std::int64_t rows() const = 0;  // query tokens
  // Batches of one key take the same launches, see Backend::run_repeatedly. 0: this one is alone.
  virtual std::uint64_t replay_key() const { return 0; }
};

struct AttentionShape {
  int heads = 0;  // query heads here; a multiple of kv_heads
  int kv_heads = 0;
  int head_dim = 0;
};

// What attention will be asked for, so that all of it can be made ready at once.
struct AttentionLayers {
  AttentionShape shape;
  std::span<const int> windows;  // different ones
};

// Rotate-half rotary embedding (Su et al. 2021) from tables [positions, rotary_dim / 2]; dimensions from
// rotary_dim on pass unchanged. Empty tables: no rotation.
struct Rope {
  MatrixView<const float> cos;
  MatrixView<const float> sin;
};

// RMS norm of each q and k head before the rotation (Qwen3); weights [head_dim], null for models without it.
struct HeadNorm {
  const float* q = nullptr;
  const float* k = nullptr;
  float eps = 0.0F;
};

// A row of the fused QKV product in owner order: `groups` times [Q heads | K heads | V heads] of one owner.
struct QkvLayout {
  AttentionShape shape;  // heads of one group
  int groups = 1;
  std::int64_t group_stride = 0;  // columns from group to group, >= width(): groups may end in padding
  std::int64_t width() const {
    return static_cast<std::int64_t>(shape.heads + 2 * shape.kv_heads) * shape.head_dim;
  }
};

struct PeakRates {
  double bf16_flops = 0.0;      // FLOP/s of the instruction that gemm uses, all threads
  double read_bandwidth = 0.0;  // bytes/s from DRAM, all threads
};

struct BackendOptions {
  Device device = Device::cpu;
  int gpu = 0;                   // which of gpu_count()
  bool strict = true;            // GPU: bits do not depend on the company; false: a faster order of additions
  int threads = 0;               // 0: as the Environment says
  std::string kernels = "auto";  // or one of available_kernel_sets(); NIGHTSHIFT_KERNELS overrides "auto"
};

// A query token that the step before samples: ids[row] = sampled[source].
struct PendingId {
  std::int32_t row, source;
};

// A point in a backend's order of operations.
using Mark = std::uint64_t;

// y = x / rms(x) * weight, as part of the operation that has made x.
struct RmsNorm {
  const float* weight = nullptr;
  float eps = 0.0F;
  MatrixView<bf16> out;
};

class DeviceSampler;  // kernels/device_sampler.h

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view kernel_set() const = 0;  // "portable", "avx512_bf16": provenance
  virtual Device device() const = 0;
  virtual int threads() const = 0;
  virtual void synchronize() = 0;
  // Memory for what operations write and read again, taken at once: without it, or where it does not suffice,
  // it grows when it is needed, which voids recordings (run_repeatedly), on every rank by itself. No-op on
  // CPUs.
  virtual void reserve_scratch(std::size_t bytes) = 0;
  virtual PeakRates measured_peak() = 0;  // takes about 0.2 s

  // --- memory ---
  virtual Buffer allocate(std::size_t bytes, const char* label) = 0;
  virtual Buffer allocate_host(std::size_t bytes, const char* label) = 0;  // copied at full speed
  // `host` may be reused on return, except memory of allocate_host: once a later mark is reached.
  virtual void copy_to_device(void* device, const void* host, std::size_t bytes) = 0;
  virtual void copy_to_host(void* host, const void* device,
                            std::size_t bytes) = 0;  // waits: host memory is ready on return
  // Into memory of allocate_host, ready once a later mark is reached.
  virtual void copy_to_host_later(void* host, const void* device, std::size_t bytes) = 0;
  virtual Mark mark() = 0;  // of all that was called so far
  virtual bool reached(Mark mark) = 0;
  // The device's time between two marks that are reached, of the last 16; 0 where calls do the work.
  virtual double seconds_between(Mark begin, Mark end) = 0;
  // Calls `work`, which calls operations alone, on buffers that stay where they are. A later call of the same
  // key (not 0) may repeat what was started then, without calling `work`.
  virtual void run_repeatedly(std::uint64_t key, const std::function<void()>& work) = 0;
  template <class T>
  Matrix<T> matrix(std::int64_t rows, std::int64_t cols, const char* label) {
    return {allocate(static_cast<std::size_t>(rows * cols) * sizeof(T), label), rows, cols};
  }
  virtual bool takes_head_dim(int head_dim) const = 0;  // of keys and values
  virtual KvCache make_kv_cache(const KvShape& shape) = 0;
  virtual std::size_t kv_block_bytes(const KvShape& shape) const = 0;  // one block, all layers and heads

  // --- weights ---
  // `memory`: packed_bytes(n, k) bytes of device memory, 64-byte aligned, owned by the caller (on CPU: a
  // shared window); empty: allocate.
  virtual std::size_t packed_bytes(std::int64_t n, std::int64_t k) const = 0;
  virtual PackedMatrix make_packed(std::int64_t n, std::int64_t k, std::span<std::byte> memory = {}) = 0;
  // Packs rows first_row .. of W from host memory `rows` [count, K]; any order, each row once. Safe from
  // several threads or processes on different rows. Padding rows are zeroed by make_packed (own memory) or
  // zero_padding.
  virtual void pack_rows(PackedMatrix& w, std::int64_t first_row, MatrixView<const bf16> rows) = 0;
  virtual void zero_padding(PackedMatrix& w) = 0;

  // --- products; x [M, K] bf16 ---
  // y [M, N] = x W^T (+ bias [N]).
  virtual void gemm(MatrixView<const bf16> x, const PackedView& w, MatrixView<float> y,
                    const float* bias = nullptr) = 0;
  // y [M, N] += tree over shards of x[:, b_s : b_s+1] W[:, b_s : b_s+1]^T. bounds: C + 1 ascending even
  // offsets relative to x and w, first 0, last K; an empty shard counts as zeros.
  // norm: of the new y, in the same pass over it.
  virtual void gemm_reduced(MatrixView<const bf16> x, const PackedView& w,
                            std::span<const std::int64_t> bounds, MatrixView<float> y,
                            const RmsNorm* norm = nullptr) = 0;
  // The same sum of the shards a rank holds, stored: y [M, N] = subtree. Add ranks' subtrees with add_tree.
  virtual void gemm_partial(MatrixView<const bf16> x, const PackedView& w,
                            std::span<const std::int64_t> bounds, MatrixView<float> y) = 0;
  // y += tree over `parts`, each [M, N], in shard order. Equal subtrees per part (a power of two of shards
  // each) give the bits of gemm_reduced over all of them.
  virtual void add_tree(std::span<const MatrixView<const float>> parts, MatrixView<float> y) = 0;
  // y [M, I] bf16 = silu(g) * u, where W is [2 I', K] with gate and up rows interleaved (see gate_up_row); a
  // bias [2 I'] in the same order is added to g and u first.
  virtual void gemm_silu_mul(MatrixView<const bf16> x, const PackedView& w, MatrixView<bf16> y,
                             const float* bias = nullptr) = 0;

  // --- rows ---
  // y [M, hidden] = scale * table[ids[m] - first_id]; ids outside the table (vocabulary shards) give rows of
  // -0.0, which change no bit of what they are added to.
  virtual void embed(MatrixView<const bf16> table, const TokenId* ids, MatrixView<float> y,
                     TokenId first_id = 0, float scale = 1.0F) = 0;
  virtual void embed(const PackedView& table, const TokenId* ids, MatrixView<float> y, TokenId first_id = 0,
                     float scale = 1.0F) = 0;  // tied embeddings: out of the packed head
  // ids[row] = sampled[source] for all of `pending`, an array in device memory like the others.
  virtual void place_ids(const PendingId* pending, int count, const TokenId* sampled, TokenId* ids) = 0;
  virtual void rms_norm(MatrixView<const float> x, const float* weight, float eps, MatrixView<bf16> y) = 0;
  virtual void silu_mul(MatrixView<const float> gate, MatrixView<const float> up, MatrixView<bf16> y) = 0;
  virtual void add(MatrixView<const float> x,
                   MatrixView<float> y) = 0;  // y += x; stride 0: one row of x onto every row of y (a bias)
  virtual void fill(MatrixView<float> y, float value) = 0;
  virtual void to_bf16(MatrixView<const float> x, MatrixView<bf16> y) = 0;
  virtual void copy(MatrixView<const bf16> x, MatrixView<bf16> y) = 0;
  virtual void gather_rows(MatrixView<const float> x, const std::int32_t* rows,
                           MatrixView<float> y) = 0;  // y[i] = x[rows[i]]

  // --- attention ---
  // One batch at a time: valid until the next call.
  virtual std::unique_ptr<AttentionBatch> prepare(std::span<const SequenceSlice> slices,
                                                  const AttentionLayers& layers = {}) = 0;
  // Norms and rotates q and k of rows first_row .. of the batch, as many as qkv [m, >= (groups - 1) *
  // group_stride + width] has (bias added), and writes groups * m rows of `out` [groups * m, width] bf16,
  // group by group: what one owner gets lies together, ready to be sent.
  virtual void rope(MatrixView<const float> qkv, const QkvLayout& layout, const AttentionBatch& batch,
                    std::int64_t first_row, const Rope& rope, const HeadNorm& norm, MatrixView<bf16> out) = 0;
  // Appends K and V of all rows of the batch to the cache, each at its row's position. kv [rows, 2 Hkv D]: K
  // heads, V heads.
  virtual void append(MatrixView<const bf16> kv, const AttentionShape& shape, const AttentionBatch& batch,
                      KvCache& cache, int layer) = 0;
  // out [rows, H D] = softmax(scale q K^T) V, causal. window > 0: position p sees (p - window, p].
  virtual void attention(MatrixView<const bf16> q, const AttentionShape& shape, const AttentionBatch& batch,
                         const KvCache& cache, int layer, float scale, int window, MatrixView<bf16> out) = 0;

  // --- sampling reductions over rows of logits [M, V]; results in device arrays; the same bits in every CPU
  // set ---
  virtual void argmax(MatrixView<const float> x, TokenId* ids,
                      float* values) = 0;  // lowest id on ties; values = row maxima
  // sums [M, C]: sum of exp(x - row_max) over each column shard (bounds as in gemm_reduced, any offsets).
  virtual void sum_exp(MatrixView<const float> x, const float* row_max, std::span<const std::int64_t> bounds,
                       MatrixView<float> sums) = 0;
  // The k largest of each row in descending order, lowest id first on ties: ids, values [M, k]. k <= V.
  virtual void top_k(MatrixView<const float> x, int k, MatrixView<TokenId> ids, MatrixView<float> values) = 0;
  // Chooses whole tokens, of a vocabulary of this many; null on CPUs, where model::Sampler does.
  virtual std::unique_ptr<DeviceSampler> make_sampler(int vocab) = 0;
};

// Chosen at run time from what the CPU can do. Throws Error naming the sets that exist here.
std::unique_ptr<Backend> make_backend(const BackendOptions& options = {});
std::vector<std::string> available_kernel_sets();  // best last

// Row of the interleaved gate/up matrix that holds gate row i (up = false) or up row i (up = true): 32 gate
// rows, then the 32 up rows of the same indices, so every panel is a legal shard and silu(gate) * up happens
// in registers. The matrix has gate_up_rows(I) rows; pack all of them (rows beyond I with zeros).
constexpr std::int64_t gate_up_row(std::int64_t i, bool up) {
  return i / 32 * 64 + (up ? 32 : 0) + i % 32;
}
constexpr std::int64_t gate_up_rows(std::int64_t intermediate) {
  return (intermediate + 31) / 32 * 64;
}

// The one order in which shard sums are added: the left part is the largest power of two below the count,
// recursively. Eight shards: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)); three: (0 + 1) + 2.
float tree_sum(std::span<const float> parts);

}  // namespace nightshift::kernels
