// SPDX-License-Identifier: Apache-2.0
#include "model/files/safetensors.h"

#include <gtest/gtest.h>

#include <random>

#include "core/check.h"
#include "model_files/model_dir.h"

namespace nightshift::model {
namespace {

using nlohmann::json;
using test::message_of;
using test::safetensors;
using test::TempDir;
using test::TestTensor;
using test::with_length;

const std::vector<TestTensor> kTwo{{"a", "BF16", {2, 3}, std::string(12, '\1')},
                                   {"b", "F32", {4}, std::string(16, '\2')}};

Checkpoint open(const std::string& bytes) {
  TempDir directory;
  directory.write("model.safetensors", bytes);
  return open_checkpoint(directory.path());
}

void expect_refused(const std::string& bytes, const std::string& part) {
  const std::string message = message_of<BadInput>([&] { open(bytes); });
  EXPECT_NE(message.find("model.safetensors"), std::string::npos) << message;
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

std::string file_of(const json& header, std::size_t data) {
  return with_length(header.dump()) + std::string(data, 'x');
}

json entry(const std::string& dtype, const json& shape, const json& offsets) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", offsets}};
}

TEST(Safetensors, ReadsHeaders) {
  const Checkpoint checkpoint = open(safetensors(kTwo));
  ASSERT_EQ(checkpoint.tensors.size(), 2u);
  const TensorInfo* b = checkpoint.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->bytes, 16u);
  EXPECT_EQ(b->offset, checkpoint.files[0].bytes - 16);
  EXPECT_EQ(weight_dtype(*b, checkpoint), DType::f32);
  EXPECT_EQ(checkpoint.tensor_bytes(), 28u);
  EXPECT_EQ(checkpoint.find("c"), nullptr);
}

TEST(Safetensors, RefusesBrokenHeaders) {
  expect_refused("", "too short");
  expect_refused("1234567", "too short");
  expect_refused(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), "header of");
  expect_refused(std::string("\x10\0\0\0\0\0\0\0{}", 10), "header of 16 bytes");
  expect_refused(with_length("{\"a\": 1}"), "\"a\"");
  expect_refused(with_length("[]"), "object");
  expect_refused(with_length(std::string(5000, '[')), "nested");
  expect_refused(file_of({{"a", entry("BF16", {2}, {0, 4})}}, 5), "describes");
  expect_refused(file_of({{"a", entry("BF16", {2}, {0, 4})}}, 3), "outside");
  expect_refused(file_of({{"a", entry("BF16", {2}, {4, 0})}}, 4), "outside");
  expect_refused(file_of({{"a", entry("BF16", {2}, {-4, 0})}}, 4), "outside");
  expect_refused(file_of({{"a", entry("BF16", {2}, {0})}}, 4), "outside");
  expect_refused(file_of({{"a", entry("BF16", {3}, {0, 4})}}, 4), "dtype and shape ask for 6");
  expect_refused(file_of({{"a", entry("BF17", {2}, {0, 4})}}, 4), "BF17");
  expect_refused(file_of({{"a", entry("BF16", {-2, -1}, {0, 4})}}, 4), "negative");
  expect_refused(file_of({{"a", entry("BF16", {1LL << 40, 1LL << 40}, {0, 4})}}, 4), "overflows");
  expect_refused(file_of({{"a", entry("BF16", {2}, {0, 4})}, {"b", entry("BF16", {2}, {2, 6})}}, 6),
                 "overlaps");
  expect_refused(file_of({{"a", entry("BF16", {1}, {0, 2})}, {"b", entry("BF16", {1}, {4, 6})}}, 6), "gap");
}

TEST(Safetensors, OtherTypesAreReadButAreNoWeights) {
  const Checkpoint checkpoint = open(safetensors({{"m", "I64", {1}, std::string(8, '\0')}}));
  const std::string message =
      message_of<BadInput>([&] { (void)weight_dtype(*checkpoint.find("m"), checkpoint); });
  EXPECT_NE(message.find("I64"), std::string::npos);
}

TEST(Safetensors, Shards) {
  TempDir directory;
  directory.write("one.safetensors", safetensors({kTwo[0]}));
  directory.write("two.safetensors", safetensors({kTwo[1]}));
  directory.write("consolidated.safetensors", "not looked at");
  const auto index = [&](const json& map) {
    directory.write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  };
  index({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  const Checkpoint checkpoint = open_checkpoint(directory.path());
  EXPECT_EQ(checkpoint.files.size(), 2u);
  EXPECT_EQ(checkpoint.find("b")->file, 1);
  const auto refused = [&](const json& map, const std::string& part) {
    index(map);
    const std::string message = message_of<BadInput>([&] { open_checkpoint(directory.path()); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  refused({{"a", "two.safetensors"}, {"b", "two.safetensors"}}, "\"a\" is not in two.safetensors");
  refused({{"a", "three.safetensors"}}, "three.safetensors");
  refused({{"a", "../one.safetensors"}}, "same directory");
  refused({{"a", 7}}, "weight_map.a");
  directory.write("copy.safetensors", safetensors({kTwo[0]}));
  refused({{"a", "one.safetensors"}, {"b", "copy.safetensors"}}, "too");
}

TEST(Safetensors, NoWeightsAtAll) {
  TempDir directory;
  directory.write("pytorch_model.bin", "x");
  const std::string message = message_of<BadInput>([&] { open_checkpoint(directory.path()); });
  EXPECT_NE(message.find("safetensors"), std::string::npos);
}

// Damaged files are read or refused, never believed: no crash, no allocation by a forged length.
TEST(Safetensors, SurvivesDamage) {
  const std::string good = safetensors(kTwo);
  std::mt19937 random(5);
  TempDir directory;
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    for (auto flips = 1 + random() % 4; flips > 0; --flips)
      bad[random() % bad.size()] = static_cast<char>(random());
    if (round % 3 == 0) bad.resize(random() % bad.size());
    try {
      directory.write("model.safetensors", bad);
      const Checkpoint checkpoint = open_checkpoint(directory.path());
      for (const auto& [name, tensor] : checkpoint.tensors)
        EXPECT_LE(tensor.offset + tensor.bytes, bad.size());
    } catch (const BadInput&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace nightshift::model
