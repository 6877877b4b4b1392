// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/choose.cuh"

#include "kernels/cuda/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/shape_check.h"

namespace nightshift::kernels::cuda {
namespace {

// Two rows share a multiprocessor when there are many; fewer rows get all its threads. No result depends on
// it.
int threads_of(std::int64_t rows, int vocab) {
  constexpr int kManyRows = 128, kSmallVocabulary = 8192;
  if (vocab <= kSmallVocabulary) return 128;
  return rows > kManyRows ? kMostThreads / 2 : kMostThreads;
}

class CudaSampler final : public DeviceSampler {
 public:
  CudaSampler(int vocab, cudaStream_t stream) : vocab_(vocab), stream_(stream) {
    NS_CHECK(vocab > 0 && vocab <= kMostTokens, "kernels::make_sampler: {} tokens, GPUs take up to {}", vocab,
             kMostTokens);
  }

  void sample(MatrixView<float> logits, const SamplingCall& call) override {
    if (logits.rows == 0) return;
    NS_CHECK(logits.cols >= vocab_, "kernels::sample: {} logits for {} tokens", logits.cols, vocab_);
    NS_CHECK(call.rows != nullptr && call.tokens != nullptr && call.results != nullptr,
             "kernels::sample: an array is missing");
    launch("kernels::sample", choose_kernel, dim3(static_cast<unsigned>(logits.rows)),
           threads_of(logits.rows, vocab_), sizeof(SelectionMemory), stream_, logits, vocab_, call);
  }

 private:
  int vocab_;
  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<DeviceSampler> CudaBackend::make_sampler(int vocab) {
  return std::make_unique<CudaSampler>(vocab, stream_);
}

}  // namespace nightshift::kernels::cuda
