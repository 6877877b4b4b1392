// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/group.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <utility>

#include "kernels/cuda/nccl.h"
#include "kernels/cuda/runtime.h"

namespace nightshift::kernels::cuda {

#if NIGHTSHIFT_HAVE_NCCL
namespace {

static_assert(sizeof(ncclUniqueId) == sizeof(GpuGroupId));

bool all_equal(std::span<const std::int64_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [&](std::int64_t size) { return size == bytes.front(); });
}

std::int64_t floats_in(std::int64_t bytes) {
  constexpr auto kFloat = static_cast<std::int64_t>(sizeof(float));
  NS_CHECK(bytes % kFloat == 0, "a block of {} bytes is no whole number of floats", bytes);
  return bytes / kFloat;
}

class NcclGroup final : public GpuGroup {
 public:
  NcclGroup(CudaBackend& backend, const GpuGroupId& id, int rank, int size, std::string name)
      : backend_(backend), stream_(backend.stream()), rank_(rank), size_(size), name_(std::move(name)) {
    ncclUniqueId unique;
    std::copy(id.begin(), id.end(), unique.internal);
    done(nccl().init(&comm_, size, unique, rank), "ncclCommInitRank");
  }

  // Destroying waits for the others; an error that unwinds this process alone must not.
  ~NcclGroup() override {
    if (comm_ == nullptr) return;
    backend_.forget_recorded();
    std::uncaught_exceptions() == exceptions_ ? nccl().destroy(comm_) : nccl().abort(comm_);
  }

  void all_to_all(const void* send, std::span<const std::int64_t> send_bytes, void* receive,
                  std::span<const std::int64_t> receive_bytes) override;
  void all_gather(void* blocks, std::span<const std::int64_t> bytes) override;
  void all_reduce(float* values, std::int64_t count) override;
  void reduce_scatter(const float* send, float* own_block, std::span<const std::int64_t> bytes) override;
  void check() override;
  void abort() override;

 private:
  // Sends and receives between Begin and End are one operation: none of them waits for another.
  class Together {
   public:
    explicit Together(NcclGroup& group) : group_(group) {
      group_.done(nccl().group_start(), "ncclGroupStart");
    }
    void end() {
      open_ = false;
      group_.done(nccl().group_end(), "ncclGroupEnd");
    }
    ~Together() {
      if (open_) nccl().group_end();
    }
    Together(const Together&) = delete;
    Together& operator=(const Together&) = delete;

   private:
    NcclGroup& group_;
    bool open_ = true;
  };

  void ready(std::span<const std::int64_t> bytes) const;
  void done(ncclResult_t result, const char* call) const;
  void send(const void* from, std::int64_t bytes, int to) {
    if (bytes > 0)
      done(nccl().send(from, static_cast<std::size_t>(bytes), ncclInt8, to, comm_, stream_), "ncclSend");
  }
  void receive(void* to, std::int64_t bytes, int from) {
    if (bytes > 0)
      done(nccl().receive(to, static_cast<std::size_t>(bytes), ncclInt8, from, comm_, stream_), "ncclRecv");
  }
  std::string place() const { return fmt::format("rank {} of {} in {}", rank_, size_, name_); }

  CudaBackend& backend_;
  cudaStream_t stream_;
  int rank_, size_;
  std::string name_;
  ncclComm_t comm_ = nullptr;  // null: given up
  int exceptions_ = std::uncaught_exceptions();
};

void NcclGroup::ready(std::span<const std::int64_t> bytes) const {
  NS_CHECK(bytes.size() == static_cast<std::size_t>(size_), "{} blocks for {} GPUs", bytes.size(), size_);
  NS_CHECK(comm_ != nullptr, "{}: its exchanges were given up", place());
}

void NcclGroup::done(ncclResult_t result, const char* call) const {
  if (result == ncclSuccess) return;
  throw Error(fmt::format("NCCL, {}: {} failed: {}: {}", place(), call, nccl().error_string(result),
                          nccl().last_error(comm_)),
              "NCCL_DEBUG=WARN in the environment says more; parallel.transport = \"mpi\" goes without NCCL");
}

void NcclGroup::all_to_all(const void* from, std::span<const std::int64_t> send_bytes, void* to,
                           std::span<const std::int64_t> receive_bytes) {
  ready(send_bytes);
  ready(receive_bytes);
  const std::int64_t block = send_bytes.front();
  if (nccl().all_to_all != nullptr && all_equal(send_bytes) && all_equal(receive_bytes) &&
      receive_bytes.front() == block) {
    if (block > 0)
      done(nccl().all_to_all(from, to, static_cast<std::size_t>(block), ncclInt8, comm_, stream_),
           "ncclAlltoAll");
    return;
  }
  Together together(*this);
  const auto* next_from = static_cast<const char*>(from);
  auto* next_to = static_cast<char*>(to);
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    send(std::exchange(next_from, next_from + send_bytes[i]), send_bytes[i], r);
    receive(std::exchange(next_to, next_to + receive_bytes[i]), receive_bytes[i], r);
  }
  together.end();
}

void NcclGroup::all_gather(void* blocks, std::span<const std::int64_t> bytes) {
  ready(bytes);
  auto* const all = static_cast<char*>(blocks);
  const std::int64_t own = bytes[static_cast<std::size_t>(rank_)];
  std::int64_t own_offset = 0;
  for (int r = 0; r < rank_; ++r) own_offset += bytes[static_cast<std::size_t>(r)];
  if (all_equal(bytes)) {
    if (own > 0)
      done(nccl().all_gather(all + own_offset, all, static_cast<std::size_t>(own), ncclInt8, comm_, stream_),
           "ncclAllGather");
    return;
  }
  Together together(*this);
  auto* next = all;
  for (int r = 0; r < size_; ++r) {
    const std::int64_t block = bytes[static_cast<std::size_t>(r)];
    if (r != rank_) {
      send(all + own_offset, own, r);
      receive(next, block, r);
    }
    next += block;
  }
  together.end();
}

void NcclGroup::all_reduce(float* values, std::int64_t count) {
  NS_CHECK(comm_ != nullptr, "{}: its exchanges were given up", place());
  if (count == 0) return;
  done(nccl().all_reduce(values, values, static_cast<std::size_t>(count), ncclFloat32, ncclSum, comm_,
                         stream_),
       "ncclAllReduce");
}

void NcclGroup::reduce_scatter(const float* from, float* own_block, std::span<const std::int64_t> bytes) {
  ready(bytes);
  if (all_equal(bytes)) {
    const std::int64_t count = floats_in(bytes.front());
    if (count > 0)
      done(nccl().reduce_scatter(from, own_block, static_cast<std::size_t>(count), ncclFloat32, ncclSum,
                                 comm_, stream_),
           "ncclReduceScatter");
    return;
  }
  Together together(*this);
  for (int r = 0; r < size_; ++r) {
    const std::int64_t count = floats_in(bytes[static_cast<std::size_t>(r)]);
    if (count > 0)
      done(nccl().reduce(from, r == rank_ ? own_block : nullptr, static_cast<std::size_t>(count), ncclFloat32,
                         ncclSum, r, comm_, stream_),
           "ncclReduce");
    from += count;
  }
  together.end();
}

void NcclGroup::check() {
  NS_CHECK(comm_ != nullptr, "{}: its exchanges were given up", place());
  ncclResult_t state = ncclSuccess;
  done(nccl().async_error(comm_, &state), "ncclCommGetAsyncError");
  if (state == ncclSuccess || state == ncclInProgress) return;
  throw Error(fmt::format("NCCL, {}: an exchange has failed: {}: {}", place(), nccl().error_string(state),
                          nccl().last_error(comm_)),
              "another rank has ended, or the way to its GPU is broken: see the other ranks' messages; "
              "NCCL_DEBUG=WARN in the environment says more");
}

// NCCL waits for the end of all graphs that its calls were recorded in, which may hold those of other groups:
// they are to be given up at the same time, by other threads.
void NcclGroup::abort() {
  static std::mutex one_forgets;
  if (comm_ == nullptr) return;
  cudaSetDevice(backend_.gpu());
  {
    const std::lock_guard lock(one_forgets);
    backend_.forget_recorded();
  }
  nccl().abort(std::exchange(comm_, nullptr));
}

}  // namespace

std::string why_no_group() {
  return nccl().missing;
}

GpuGroupId new_group_id() {
  NS_CHECK(nccl().missing.empty(), "no NCCL: {}", nccl().missing);
  ncclUniqueId unique;
  if (const ncclResult_t result = nccl().unique_id(&unique); result != ncclSuccess)
    throw Error(fmt::format("NCCL: ncclGetUniqueId failed: {}", nccl().error_string(result)),
                "NCCL_SOCKET_IFNAME names the network interface it may use");
  GpuGroupId id;
  std::copy_n(unique.internal, id.size(), id.begin());
  return id;
}

std::unique_ptr<GpuGroup> make_group(CudaBackend& backend, const GpuGroupId& id, int rank, int size,
                                     const std::string& name) {
  NS_CHECK(nccl().missing.empty(), "no NCCL: {}", nccl().missing);
  cuda::check(cudaSetDevice(backend.gpu()), fmt::format("GPU {}", backend.gpu()));
  return std::make_unique<NcclGroup>(backend, id, rank, size, name);
}

#else

std::string why_no_group() {
  return "nightshift-cuda.so was built without NCCL";
}
GpuGroupId new_group_id() {
  throw Error(why_no_group());
}
std::unique_ptr<GpuGroup> make_group(CudaBackend&, const GpuGroupId&, int, int, const std::string&) {
  throw Error(why_no_group());
}

#endif

}  // namespace nightshift::kernels::cuda
