// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <exception>
#include <optional>
#include <thread>

#include "core/check.h"
#include "kernels/gpu.h"
#include "model/checkpoint_reader.h"
#include "model/forward.h"
#include "model/packed_weights.h"
#include "model/replica_sampling.h"
#include "model/sampler.h"
#include "model/vocabulary_sampling.h"

namespace nightshift::model {

namespace {

constexpr int kStepsInFlight = 2;  // of a GPU: one runs while the next is planned

void check_limits(const ModelConfig& config, const ModelOptions& options) {
  const StepLimits& limits = options.limits;
  NS_CHECK(limits.max_query_tokens > 0 && limits.max_sampled_rows > 0 && limits.kv_blocks > 0,
           "limits: {} query tokens, {} sampled rows, {} KV blocks", limits.max_query_tokens,
           limits.max_sampled_rows, limits.kv_blocks);
  if (limits.max_context < 1 || limits.max_context > longest_context(config))
    throw BadInput(fmt::format("max_context {} is outside what this model was made for", limits.max_context),
                   fmt::format("set [model] max_context to 1 .. {}", longest_context(config)));
  NS_CHECK(options.tokenizer_size >= 0, "tokenizer_size {}", options.tokenizer_size);
}

int real_tokens(const ModelConfig& config, const ModelOptions& options) {
  const int vocab = config.shape.vocab;
  return options.tokenizer_size == 0 ? vocab : std::min(vocab, options.tokenizer_size);
}

// Uniform with the spread that keeps activations near one; norms are one. Cheap rather than good numbers.
void fill_randomly(PackedWeights& weights, Weight weight, int layer, const ModelShape& shape,
                   std::uint64_t seed) {
  const WeightShape size = expected_shape(weight, shape);
  seed *= 0x9e3779b97f4a7c15u;
  const bool norm = size.columns == 0;
  const std::int64_t columns = std::max<std::int64_t>(size.columns, 1);
  const float spread = norm ? 0.0F : std::sqrt(3.0F / static_cast<float>(columns));
  std::vector<float> row(static_cast<std::size_t>(columns));
  for (std::int64_t r = 0; r < size.rows; ++r) {
    for (float& value : row) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      value = (norm ? 1.0F : 0.0F) + spread * (static_cast<float>(seed >> 40) * 0x1.0p-23F - 1.0F);
    }
    weights.store(weight, layer, DType::f32, r, 1, columns, row.data());
  }
}

// A GPU fetches from page-locked memory while others are filled: enough threads for a fast file system,
// pieces of a size that both like.
CheckpointReader::Ways reading_ways(kernels::Backend& backend) {
  if (backend.device() == kernels::Device::cpu) return {};
  constexpr int kReaders = 8, kHeld = 4;
  return {.piece_bytes = std::size_t{8} << 20,
          .threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kReaders),
          .held = kHeld,
          .memory = [&backend](std::size_t bytes) {
            return backend.allocate_host(bytes, "model::checkpoint_piece");
          }};
}

}  // namespace

struct Model::Impl {
  using Clock = std::chrono::steady_clock;

  Impl(ModelConfig config_, const ModelOptions& options_)
      : config(std::move(config_)),
        options(options_),
        backend(kernels::make_backend({.device = options.gpu ? kernels::Device::cuda : kernels::Device::cpu,
                                       .strict = options.strict,
                                       .threads = options.threads,
                                       .kernels = options.kernels})),
        weights(config, options.mesh, held_parts(config.shape, options.mesh, backend->device()), *backend),
        forward(config, weights, options.limits, options.mesh, *backend, options.transport),
        sampler(real_tokens(config, options), config.stop_ids),
        sampling(sampler, options.mesh, config.shape.vocab, backend->threads()) {
    forward.on_layer(options.on_layer);
    const bool several = options.mesh != nullptr && options.mesh->degrees().ranks() > 1;
    if (on_gpu())
      replica_sampling.emplace(sampler,
                               several ? &options.mesh->tensor_group(parallel::Layout::shift) : nullptr,
                               several ? forward.groups().all() : nullptr, config.shape.vocab,
                               options.limits.max_sampled_rows, kStepsInFlight, *backend);
  }

  // Where an error unwinds this rank, its GPU may wait for one that will not come: memory could not be freed.
  ~Impl() {
    if (std::uncaught_exceptions() > exceptions) forward.groups().abort();
  }

  bool on_gpu() const { return backend->device() != kernels::Device::cpu; }
  void submit(const BatchPlan& plan, parallel::Layout layout);
  StepResult collect();
  void sample_here(kernels::MatrixView<const float> logits, StepResult& result);
  void sample_there(kernels::MatrixView<float> logits);

  const int exceptions = std::uncaught_exceptions();
  const ModelConfig config;
  const ModelOptions options;
  std::unique_ptr<kernels::Backend> backend;
  PackedWeights weights;
  ForwardPass forward;
  Sampler sampler;
  VocabularySampling sampling;  // on the host
  StepBatch batch;
  kernels::MatrixView<const float> last_logits;
  std::vector<float> host_logits;  // of a GPU: a row of logits()
  std::vector<float> whole_row;    // of logits()

  struct Submitted {
    StepResult result;  // complete, on CPUs
    kernels::Mark begin = 0, end = 0;
    int slot = -1;  // of replica_sampling; -1: nothing was sampled there
    Clock::time_point at;
  };
  std::deque<Submitted> in_flight;
  // On GPUs: the step submitted last.
  std::optional<ReplicaSampling> replica_sampling;
  SampledIndex sampled_before;
  int slot = 0;
};

void Model::Impl::submit(const BatchPlan& plan, parallel::Layout layout) {
  Submitted step{.result = {.step = plan.step, .tokens = {}, .compute_seconds = 0.0}, .at = Clock::now()};
  fill_batch(plan, config, options.limits, sampled_before, batch);
  step.begin = backend->mark();
  if (!batch.ids.empty()) {
    const TokenId* before = on_gpu() ? replica_sampling->tokens(slot) : nullptr;
    const kernels::MatrixView<float> logits = forward.run(batch, layout, before);
    last_logits = logits;
    if (on_gpu()) {
      sample_there(logits);
      step.slot = slot;
    } else {
      sample_here(logits, step.result);
    }
  }
  step.end = backend->mark();
  in_flight.push_back(std::move(step));
}

void Model::Impl::sample_here(kernels::MatrixView<const float> logits, StepResult& result) {
  if (logits.rows == 0) return;
  forward.timer().at(Op::sample);
  result.tokens = sampling.sample(logits, batch.sampling);
  forward.timer().stop();
}

// Tokens stay on the GPU, where the next step finds them.
void Model::Impl::sample_there(kernels::MatrixView<float> logits) {
  const TokenId* before = replica_sampling->tokens(slot);
  slot = (slot + 1) % kStepsInFlight;
  replica_sampling->start(slot, logits, batch.sampling, batch.pending_of, before);
  sampled_before.clear();
  for (std::size_t row = 0; row < batch.sampling.size(); ++row)
    sampled_before[batch.sampling[row]->id] = static_cast<std::int32_t>(row);
}

StepResult Model::Impl::collect() {
  NS_CHECK(!in_flight.empty(), "no step was submitted");
  Submitted step = std::move(in_flight.front());
  in_flight.pop_front();
  forward.groups().wait(*backend, step.end);
  if (options.on_layer) options.on_layer();
  if (step.slot >= 0) step.result.tokens = replica_sampling->result(step.slot);
  step.result.compute_seconds = on_gpu() ? backend->seconds_between(step.begin, step.end)
                                         : std::chrono::duration<double>(Clock::now() - step.at).count();
  return std::move(step.result);
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

// On CPUs the ranks of a host claim pieces of the checkpoint, read and pack them, until none is left. On a
// GPU a rank reads what it needs, into page-locked memory that the GPU copies from while the next pieces are
// read.
std::unique_ptr<Model> Model::load(const ModelFiles& files, const ModelOptions& options,
                                   const LoadCallback& callback) {
  check_limits(files.config, options);
  auto impl = std::make_unique<Impl>(files.config, options);
  const parallel::Communicator* sharers = impl->weights.memory().sharers();
  const CheckpointReader::Ways ways = reading_ways(*impl->backend);
  const CheckpointPieces pieces(files, ways.piece_bytes);
  std::optional<parallel::WorkQueue> queue;
  if (sharers != nullptr) queue.emplace(*sharers, pieces.count());
  const auto all = CheckpointReader::every_piece(pieces.count());
  const auto wanted = [&](std::uint64_t number) {
    const CheckpointPiece piece = pieces.at(number);
    return impl->weights.wants(piece.weight->weight, piece.first_row, piece.rows);
  };
  const auto claim = [&]() -> std::optional<std::uint64_t> {
    for (;;) {
      const std::optional<std::uint64_t> number = queue ? queue->claim() : all();
      if (!number || wanted(*number)) return number;
    }
  };
  CheckpointReader reader(files, claim, ways);

  LoadProgress progress;
  for (std::uint64_t i = 0; i < pieces.count(); ++i)
    if (wanted(i)) progress.total += CheckpointPieces::bytes(pieces.at(i));
  const std::uint64_t ranks = sharers == nullptr ? 1 : static_cast<std::uint64_t>(sharers->size());
  std::deque<kernels::Mark> copied;  // of the last pieces
  while (const CheckpointPiece* piece = reader.next()) {
    const WeightTensor& weight = *piece->weight;
    impl->weights.store(weight.weight, weight.layer, weight.dtype, piece->first_row, piece->rows,
                        piece->columns, piece->data.data());
    progress.own += CheckpointPieces::bytes(*piece);
    progress.bytes = std::min(progress.total, progress.own * ranks);  // the others are about as far
    if (callback) callback(progress);
    copied.push_back(impl->backend->mark());
    if (copied.size() <= static_cast<std::size_t>(ways.held)) continue;
    impl->forward.groups().wait(*impl->backend, copied.front());  // its memory is to be read into next
    copied.pop_front();
  }
  impl->backend->synchronize();
  impl->weights.memory().publish();
  return std::unique_ptr<Model>(new Model(std::move(impl)));
}

std::unique_ptr<Model> Model::random(const ModelConfig& config, const ModelOptions& options,
                                     std::uint64_t seed) {
  check_limits(config, options);
  auto impl = std::make_unique<Impl>(config, options);
  const parallel::Communicator* sharers = impl->weights.memory().sharers();
  int turn = 0;  // the ranks of a host fill in turn
  for (const WeightName& entry : find_family(config.model_type)->names) {
    const int copies = is_per_layer(entry.weight) ? config.shape.layers : 1;
    if (!is_needed(entry.needs, config)) continue;
    for (int layer = 0; layer < copies; ++layer, ++turn)
      if (sharers == nullptr || turn % sharers->size() == sharers->rank())
        fill_randomly(impl->weights, entry.weight, layer, config.shape,
                      seed + static_cast<std::uint64_t>(turn));
  }
  impl->weights.memory().publish();
  return std::unique_ptr<Model>(new Model(std::move(impl)));
}

std::string why_no_gpu() {
  return kernels::why_no_gpu();
}

std::optional<Gpu> own_gpu() {
  if (kernels::gpu_count() == 0) return std::nullopt;
  kernels::GpuFacts facts = kernels::gpu_facts(0);
  return Gpu{std::move(facts.identity), facts.free_bytes};
}

const ModelConfig& Model::config() const {
  return impl_->config;
}
const StepLimits& Model::limits() const {
  return impl_->options.limits;
}
std::string Model::kernels() const {
  return std::string(impl_->backend->kernel_set());
}

std::string Model::transport() const {
  return impl_->forward.groups().way();
}

MemoryNeed Model::memory() const {
  return {.weights = static_cast<std::int64_t>(impl_->weights.memory().bytes()),
          .kv_cache = impl_->forward.kv_bytes(),
          .step_buffers = impl_->forward.buffers().bytes() + impl_->forward.table_bytes()};
}

std::int64_t Model::weight_bytes(parallel::Layout layout) const {
  return matrix_bytes(impl_->config.shape, impl_->forward.shard(layout), *impl_->backend);
}

std::vector<OperationTime> Model::times() const {
  std::vector<OperationTime> times;
  if (impl_->on_gpu()) return times;
  for (std::size_t op = 0; op < kOpNames.size(); ++op)
    times.push_back({kOpNames[op], impl_->forward.timer().seconds(op), impl_->forward.timer().calls(op)});
  return times;
}

Peak Model::measured_peak() const {
  const kernels::PeakRates rates = impl_->backend->measured_peak();
  return {rates.bf16_flops, rates.read_bandwidth};
}

int Model::pipeline_depth() const {
  return impl_->on_gpu() ? kStepsInFlight : 1;
}

void Model::submit(const BatchPlan& plan, parallel::Layout layout) {
  NS_CHECK(!impl_->on_gpu() || static_cast<int>(impl_->in_flight.size()) < kStepsInFlight,
           "{} steps in flight already", impl_->in_flight.size());
  impl_->submit(plan, layout);
}

StepResult Model::collect() {
  return impl_->collect();
}

std::span<const float> Model::logits(int row) const {
  const kernels::MatrixView<const float>& last = impl_->last_logits;
  NS_CHECK(row >= 0 && row < last.rows, "row {} of {}", row, last.rows);
  std::span<const float> part(last.row(row), static_cast<std::size_t>(last.cols));
  if (impl_->on_gpu()) {
    impl_->host_logits.resize(part.size());
    impl_->backend->copy_to_host(impl_->host_logits.data(), part.data(), part.size_bytes());
    part = impl_->host_logits;
  }
  if (part.size() == static_cast<std::size_t>(impl_->config.shape.vocab)) return part;
  impl_->whole_row = impl_->sampling.whole_row(part);
  return impl_->whole_row;
}

}  // namespace nightshift::model
