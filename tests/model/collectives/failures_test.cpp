// SPDX-License-Identifier: Apache-2.0
// What goes wrong says so, on every rank that it concerns, and nobody hangs.
#include <fstream>

#include "core/check.h"
#include "kernels/gpu.h"
#include "model/collectives/support.h"
#include "model/layout_groups.h"

namespace nightshift::test {
namespace {

using model::Collectives;
using model::Transport;
using parallel::Traffic;
using testing::AssertionFailure;
using testing::AssertionResult;
using testing::AssertionSuccess;

constexpr const char* kName = "the tensor group of the base layout";

template <class F>
std::string error_of(const F& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

AssertionResult says(const std::string& message, const std::string& words) {
  if (message.find(words) != std::string::npos) return AssertionSuccess();
  return AssertionFailure() << "not in: " << message;
}

// Ranks that have an error leave early; nobody goes on to the next test before all are here.
class Failures : public testing::Test {
 protected:
  void TearDown() override { test_world->barrier(); }
  int me() const { return test_world->rank(); }
  int ranks() const { return test_world->size(); }
  std::string place() const { return fmt::format("rank {} of {} in {}", me(), ranks(), kName); }

  std::unique_ptr<kernels::Backend> gpu_ = gpu_of(test_world->rank());
  kernels::Buffer values_ = on_device(*gpu_, std::vector<float>(64, 1.0F));
  std::unique_ptr<Collectives> group_ = model::make_collectives(*test_world, *gpu_, Transport::nccl, kName);
  void reduce(std::int64_t count) { group_->all_reduce(Traffic::reduction, values_.as<float>(), count); }
};

TEST_F(Failures, ThatComeLaterAreSeenWhileWaiting) {
  group_->check();
  make_nccl_fail();
  const std::string message = error_of([&] { group_->check(); });
  EXPECT_TRUE(says(message, place()));
  EXPECT_TRUE(says(message, "an exchange has failed: remote process exited"));
  EXPECT_TRUE(says(message, "made to fail"));  // NCCL's last error
  group_->abort();
  EXPECT_EQ(take_record().back(), "ncclCommAbort");
  EXPECT_TRUE(says(error_of([&] { group_->check(); }), "given up"));
  EXPECT_TRUE(says(error_of([&] { reduce(4); }), "given up"));
}

TEST_F(Failures, OfTheGroupsOfALayoutEndItsWait) {
  const parallel::DeviceMesh mesh(*test_world, {.sequence = 1, .tensor = ranks()});
  model::LayoutGroups groups(&mesh, *gpu_, Transport::automatic, true);
  EXPECT_EQ(groups.way(), "nccl");
  EXPECT_TRUE(groups.capturable());
  groups.wait(*gpu_, gpu_->mark());
  make_nccl_fail();
  EXPECT_TRUE(says(error_of([&] { groups.wait(*gpu_, gpu_->mark()); }), place()));
  group_->abort();
}

TEST_F(Failures, AreStepsThatNeverEnd) {
  const parallel::DeviceMesh mesh(*test_world, {.sequence = 1, .tensor = ranks()});
  model::LayoutGroups groups(&mesh, *gpu_, Transport::nccl, true);
  groups.check(model::LayoutGroups::kPatience - std::chrono::seconds(1));
  const std::string message = error_of([&] { groups.check(model::LayoutGroups::kPatience); });
  EXPECT_TRUE(says(message, fmt::format("rank {} of {} of a replica", me(), ranks())));
  EXPECT_TRUE(says(message, "has not ended within 600 s"));
  EXPECT_TRUE(says(error_of([&] { groups.check(); }), "given up"));
  const auto shared = gpu_of(0);
  model::LayoutGroups staged(&mesh, *shared, Transport::mpi, true);
  staged.check(2 * model::LayoutGroups::kPatience);  // MPI waits by itself, and long
}

TEST_F(Failures, OfOneRankReachTheOthers) {
  if (me() == 0) group_->abort();
  if (me() == 0) {
    EXPECT_TRUE(says(error_of([&] { reduce(4); }), "given up"));
  } else {
    const std::string message = error_of([&] { reduce(4); });
    EXPECT_TRUE(says(message, place()));
    EXPECT_TRUE(says(message, "ncclAllReduce failed: remote process exited"));
    EXPECT_TRUE(says(message, "has ended"));
  }
}

TEST_F(Failures, AreCallsThatDiffer) {
  const std::string message = error_of([&] { reduce(me() == 0 ? 8 : 12); });
  if (ranks() == 2) {
    EXPECT_TRUE(says(message, place()));
    const bool told = message.find("ncclAllReduce 12 float32") != std::string::npos &&
                      message.find("ncclAllReduce 8 float32") != std::string::npos;
    EXPECT_TRUE(told || message.find("has ended") != std::string::npos) << message;
  }
  EXPECT_GT(test_world->max(message.find("does ncclAllReduce") != std::string::npos ? 1 : 0), 0);
  EXPECT_FALSE(me() == 0 && message.empty());
}

TEST_F(Failures, AreBlocksOfOtherSizesThanExpected) {
  std::vector<std::int64_t> send(static_cast<std::size_t>(ranks()), 16), receive(send);
  send.back() = 20;  // but the last rank expects 16
  receive[static_cast<std::size_t>(me())] = send[static_cast<std::size_t>(me())];
  const kernels::Buffer to = gpu_->allocate(1024, "test::to");
  const std::string message =
      error_of([&] { group_->all_to_all(Traffic::qkv_exchange, values_.data(), send, to.data(), receive); });
  if (me() == ranks() - 1) {
    EXPECT_TRUE(says(message, place()));
    EXPECT_TRUE(says(message, "ncclGroupEnd failed: invalid usage"));
    EXPECT_TRUE(says(message, fmt::format("rank {} of {} does ncclSend 16 int8, rank", me(), ranks())));
    EXPECT_TRUE(says(message, "does ncclSend 20 int8"));
  }
}

TEST_F(Failures, AreRanksThatNeverCome) {
  const Setting patience("NCCL_ON_HOST_TIMEOUT", "0.3");
  if (me() == 0) {
    const std::string message = error_of([&] { reduce(8); });
    EXPECT_TRUE(says(message, place()));
    EXPECT_TRUE(says(message, fmt::format("rank 0 of {} waits for rank 1", ranks())));
    EXPECT_TRUE(says(message, "ncclAllReduce 8 float32"));
  }
  test_world->barrier();
}

TEST_F(Failures, AreMessagesThatNobodyReceives) {
  take_record();
  const std::vector<std::int64_t> none(static_cast<std::size_t>(ranks()), 0);
  std::vector<std::int64_t> send(none);
  if (me() == 0) send[1] = 12;
  const kernels::Buffer to = gpu_->allocate(64, "test::to");
  group_->all_to_all(Traffic::qkv_exchange, values_.data(), send, to.data(), none);
  test_world->barrier();  // sent, and on its way
  group_.reset();
  if (me() == 1) {
    EXPECT_TRUE(says(take_record().back(), "ncclCommDestroy 0 int8, rank 0 does ncclSend 12 int8"));
  }
}

TEST_F(Failures, AreTwoRanksOnOneGpu) {
  const auto shared = gpu_of(0);
  const std::string why = fmt::format("ranks 0 and 1 of a group share GPU 0000:00:00.0 of {}",
                                      parallel::Communicator::host_name());
  const std::string message =
      error_of([&] { model::make_collectives(*test_world, *shared, Transport::nccl, kName); });
  EXPECT_TRUE(says(message, why));
  EXPECT_TRUE(says(message, "NCCL refuses two ranks on one GPU"));
  const auto second_best = model::make_collectives(*test_world, *shared, Transport::automatic, kName);
  EXPECT_EQ(second_best->way(), "mpi");
  EXPECT_TRUE(says(second_best->why(), why));
  const parallel::DeviceMesh mesh(*test_world, {.sequence = ranks(), .tensor = 1});
  model::LayoutGroups groups(&mesh, *shared, Transport::automatic, true);
  EXPECT_TRUE(says(groups.way(), "mpi (ranks 0 and 1"));
  EXPECT_FALSE(groups.capturable());
  groups.wait(*shared, shared->mark());
}

// As NCCL itself says it, where nobody has looked before.
TEST_F(Failures, AreTwoRanksOnOneGpuInNcclsOwnWords) {
  std::string id;
  if (me() == 0) {
    const auto fresh = kernels::new_gpu_group_id();
    id.assign(fresh.begin(), fresh.end());
  }
  test_world->broadcast(id);
  kernels::GpuGroupId shared_id{};
  std::copy(id.begin(), id.end(), shared_id.begin());
  const auto shared = gpu_of(0);
  const Setting patience("NCCL_ON_HOST_TIMEOUT", "3");  // of ranks whose peers have met already
  const std::string message =
      error_of([&] { kernels::make_gpu_group(*shared, shared_id, me(), ranks(), kName); });
  EXPECT_TRUE(says(message, "ncclCommInitRank failed"));
  EXPECT_TRUE(test_world->max(message.find("Duplicate GPU detected") != std::string::npos ? 1 : 0) == 1);
}

TEST(Choices, OfATransport) {
  EXPECT_EQ(model::transport_named("auto"), Transport::automatic);
  EXPECT_EQ(model::transport_named("nccl"), Transport::nccl);
  EXPECT_EQ(model::transport_named("mpi"), Transport::mpi);
  EXPECT_THROW(model::transport_named("NCCL"), BadInput);
  const auto cpu = kernels::make_backend({.kernels = "portable"});
  EXPECT_THROW(model::make_collectives(*test_world, *cpu, Transport::nccl, kName), BadInput);
  EXPECT_EQ(model::make_collectives(*test_world, *cpu, Transport::mpi, kName)->way(), "host");
}

// With NIGHTSHIFT_NCCL_LIBRARY naming nothing that loads (a run of its own: the library is opened once).
TEST(WithoutNccl, AutoTakesMpiAndSaysWhy) {
  const Setting other("NIGHTSHIFT_NCCL_LIBRARY", "libno-such-nccl.so.2");
  const auto gpu = gpu_of(test_world->rank());
  const auto group = model::make_collectives(*test_world, *gpu, Transport::automatic, kName);
  EXPECT_EQ(group->way(), "mpi");
  EXPECT_TRUE(says(group->why(), "libno-such-nccl.so.2 does not load"));
  EXPECT_THROW(model::make_collectives(*test_world, *gpu, Transport::nccl, kName), BadInput);
}

}  // namespace
}  // namespace nightshift::test
