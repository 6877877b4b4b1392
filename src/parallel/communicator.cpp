// SPDX-License-Identifier: Apache-2.0
#include "parallel/communicator.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "core/check.h"
#include "parallel/mpi_check.h"

namespace nightshift::parallel {

void mpi_check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw Error(
      fmt::format("rank {} on {}: {} failed: {}", rank, Communicator::host_name(), call, text.data()));
}

Environment::Environment(int* argc, char*** argv) {
  // FUNNELED: reading, tokenizing and the journal have threads of their own, but only the engine's thread
  // calls MPI.
  int provided = 0;
  NS_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
  NS_CHECK(provided >= MPI_THREAD_FUNNELED, "this MPI gives thread level {}", provided);
  NS_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
}

Environment::~Environment() {
  MPI_Finalize();
}

void Environment::abort(int code) {
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

Communicator::Impl::Impl(MPI_Comm owned, std::shared_ptr<Family> of)
    : comm(owned), family(std::move(of)), transfers(owned) {
  NS_MPI(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  NS_MPI(MPI_Comm_rank(comm, &rank));
  NS_MPI(MPI_Comm_size(comm, &size));
  MPI_Comm host = MPI_COMM_NULL;
  NS_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host));
  NS_MPI(MPI_Comm_rank(host, &host_rank));
  NS_MPI(MPI_Comm_size(host, &host_size));
  NS_MPI(MPI_Comm_free(&host));
}

// Collective, so not while an error unwinds this rank alone; see SharedCounters.
Communicator::Impl::~Impl() {
  if (std::uncaught_exceptions() == exceptions) MPI_Comm_free(&comm);
}

namespace {

MPI_Comm duplicate(MPI_Comm of) {
  MPI_Comm copy = MPI_COMM_NULL;
  NS_MPI(MPI_Comm_dup(of, &copy));
  return copy;
}

}  // namespace

Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&&) noexcept = default;
Communicator::~Communicator() = default;

Communicator Communicator::world() {
  return Communicator(std::make_unique<Impl>(duplicate(MPI_COMM_WORLD), std::make_shared<Family>()));
}
Communicator Communicator::self() {
  return Communicator(std::make_unique<Impl>(duplicate(MPI_COMM_SELF), std::make_shared<Family>()));
}

int Communicator::rank() const {
  return impl_->rank;
}
int Communicator::size() const {
  return impl_->size;
}
int Communicator::host_rank() const {
  return impl_->host_rank;
}
int Communicator::host_size() const {
  return impl_->host_size;
}

std::string Communicator::host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

Communicator Communicator::split(int color, int key) const {
  MPI_Comm part = MPI_COMM_NULL;
  NS_MPI(MPI_Comm_split(impl_->comm, color, key, &part));
  return Communicator(std::make_unique<Impl>(part, impl_->family));
}

void Communicator::barrier() const {
  NS_MPI(MPI_Barrier(impl_->comm));
}

void Communicator::wait_for_all(const std::function<void()>& meanwhile) const {
  MPI_Request request = MPI_REQUEST_NULL;
  NS_MPI(MPI_Ibarrier(impl_->comm, &request));
  for (int done = 0;;) {
    NS_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
    if (done != 0) return;
    meanwhile();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void Communicator::broadcast(std::string& text, int root) const {
  auto length = static_cast<std::uint64_t>(text.size());
  NS_MPI(MPI_Bcast(&length, 1, MPI_UINT64_T, root, impl_->comm));
  text.resize(length);
  constexpr std::uint64_t kPiece = 1u << 30;  // MPI counts in int
  for (std::uint64_t at = 0; at < length; at += kPiece) {
    const auto count = static_cast<int>(std::min(kPiece, length - at));
    NS_MPI(MPI_Bcast(text.data() + at, count, MPI_CHAR, root, impl_->comm));
  }
}

std::vector<std::string> Communicator::gather(std::string_view text, int root) const {
  const int mine = static_cast<int>(text.size());
  const bool here = impl_->rank == root;
  std::vector<int> lengths(here ? static_cast<std::size_t>(impl_->size) : 0);
  NS_MPI(MPI_Gather(&mine, 1, MPI_INT, lengths.data(), 1, MPI_INT, root, impl_->comm));
  std::vector<int> offsets(lengths.size());
  int total = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    offsets[i] = total;
    total += lengths[i];
  }
  std::string all(static_cast<std::size_t>(total), '\0');
  NS_MPI(MPI_Gatherv(text.data(), mine, MPI_CHAR, all.data(), lengths.data(), offsets.data(), MPI_CHAR, root,
                     impl_->comm));
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    texts.push_back(all.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(lengths[i])));
  }
  return texts;
}

double Communicator::sum(double value) const {
  double total = 0;
  NS_MPI(MPI_Allreduce(&value, &total, 1, MPI_DOUBLE, MPI_SUM, impl_->comm));
  return total;
}

std::int64_t Communicator::min(std::int64_t value) const {
  std::int64_t least = 0;
  NS_MPI(MPI_Allreduce(&value, &least, 1, MPI_INT64_T, MPI_MIN, impl_->comm));
  return least;
}

std::int64_t Communicator::max(std::int64_t value) const {
  std::int64_t most = 0;
  NS_MPI(MPI_Allreduce(&value, &most, 1, MPI_INT64_T, MPI_MAX, impl_->comm));
  return most;
}

}  // namespace nightshift::parallel
