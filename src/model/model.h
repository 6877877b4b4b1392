// SPDX-License-Identifier: Apache-2.0
// Door of the model room: a Hugging Face directory becomes packed weights, a paged KV cache, a forward pass
// and a sampler, behind submit() and collect(). The result of a step depends on each sequence alone: batch
// composition, chunk size, prefix hits and thread counts do not change a bit of it (docs/architecture.md,
// "Numbers").
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/types.h"
#include "model/files/model_files.h"
#include "model/random.h"
#include "model/transport.h"
#include "parallel/parallel.h"

namespace nightshift::model {

struct ModelOptions {
  StepLimits limits;       // of the job; all buffers are allocated once, for the largest step
  int tokenizer_size = 0;  // ids from here on are padding and never sampled; 0: every row of the embedding
  std::string kernels = "auto";  // auto (the best this CPU has), portable, avx512_bf16
  bool gpu = false;              // the first one that this process sees; then `kernels` does not matter
  bool strict = true;            // of a GPU: bits depend on each sequence alone; false: on its company too
  int threads = 0;               // 0: as the kernels::Environment says
  Transport transport = Transport::automatic;  // between ranks with GPUs (collectives.h)
  // The replica that this rank computes in; null: a replica of one. Must outlive the model. Construction,
  // destruction, submit() and logits() are then collective over the replica, and loading over the world.
  const parallel::DeviceMesh* mesh = nullptr;
  // A sign of life from long steps: called before every layer that is started, and at the end of a step.
  std::function<void()> on_layer = {};
};

// The GPU that a model of this process computes on: the first that it sees.
struct Gpu {
  std::string identity;          // on its host, "0000:1b:00.0"
  std::uint64_t free_bytes = 0;  // of its memory
};
std::optional<Gpu> own_gpu();  // none: why_no_gpu() says why
std::string why_no_gpu();

struct LoadProgress {
  std::uint64_t bytes = 0;  // of the checkpoint, read and packed by all ranks of the host, about
  std::uint64_t total = 0;
  std::uint64_t own = 0;  // by this rank, exactly
};
using LoadCallback = std::function<void(const LoadProgress&)>;

// Wall time of one kind of operation since the start, for reports and benchmarks; none on GPUs, where
// operations end after their calls.
struct OperationTime {
  std::string name;
  double seconds = 0.0;
  std::uint64_t calls = 0;
};

// What this rank's threads reach by themselves, for shares of peak in reports.
struct Peak {
  double bf16_flops = 0.0;      // FLOP/s
  double read_bandwidth = 0.0;  // bytes/s
};

class Model {
 public:
  // Reads every byte of the checkpoint once, in order, in large pieces, and packs it on the fly: beside the
  // packed weights only a few MiB are in use. `callback` is called after every piece. Throws BadInput for
  // limits that the model cannot serve, Error when a file changes or ends under the reader.
  static std::unique_ptr<Model> load(const ModelFiles& files, const ModelOptions& options,
                                     const LoadCallback& callback = {});
  // The same with pseudo-random weights of the given shape and no files: benchmarks.
  static std::unique_ptr<Model> random(const ModelConfig& config, const ModelOptions& options,
                                       std::uint64_t seed);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const;
  const StepLimits& limits() const;
  std::string kernels() const;    // the kernel set in use, for the provenance
  std::string transport() const;  // how ranks exchange data, and why not by NCCL: LayoutGroups::way()
  MemoryNeed memory() const;      // bytes allocated; weights are those of the host, whatever its ranks
  // Of the weight matrices, what this rank reads in a step of this layout: a part of the host's one copy.
  std::int64_t weight_bytes(parallel::Layout layout) const;
  std::vector<OperationTime> times() const;
  Peak measured_peak() const;  // takes some tenths of a second

  // Runs one step. Steps run in the order of submission; collect() returns the oldest one's result and blocks
  // until it is there. Keys and values of the whole step are written before attention reads any (of a layer),
  // so sequences may share blocks filled in the same step. On CPUs the work is done inside submit(): the
  // caller's cores are the device's. GPUs take pipeline_depth() steps at once; a sequence's last token may
  // then be one that the step submitted before samples (PlannedSequence::tokens). All ranks of a replica
  // submit the same plans in the same layouts and collect the same results, which do not depend on the
  // layout.
  int pipeline_depth() const;
  void submit(const BatchPlan& plan, parallel::Layout layout = parallel::Layout::base);
  StepResult collect();

  // fp32 logits [sampled row of the plan][vocab] of the last step submitted; valid until the next submit()
  // or logits(). Collective over the replica.
  std::span<const float> logits(int row) const;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nightshift::model
