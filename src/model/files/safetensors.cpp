// SPDX-License-Identifier: Apache-2.0
#include "model/files/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <set>

#include "core/check.h"
#include "model/files/json_object.h"

namespace nightshift::model {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::uint64_t kMaxIndexBytes = 256u << 20;
constexpr std::size_t kMaxRank = 16;
const std::string kRemedyAgain = "the file is damaged or incomplete: download it again";

// Bits per element; 0: unknown. Types that are never used here still occur beside the weights.
std::uint64_t bits_of(std::string_view dtype) {
  static const std::map<std::string_view, std::uint64_t> bits{
      {"F64", 64}, {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"I64", 64}, {"I32", 32},
      {"I16", 16}, {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16}, {"U8", 8},
      {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"C64", 64}, {"F4", 4}};
  const auto it = bits.find(dtype);
  return it == bits.end() ? 0 : it->second;
}

[[noreturn]] void refuse(const fs::path& file, const std::string& tensor, const std::string& why) {
  throw BadInput(fmt::format("{}: tensor \"{}\": {}", file.string(), tensor, why), kRemedyAgain);
}

std::string read_header(const fs::path& path, std::uint64_t file_bytes) {
  std::ifstream in(path, std::ios::binary);
  std::array<unsigned char, 8> prefix{};
  in.read(reinterpret_cast<char*>(prefix.data()), prefix.size());
  if (!in)
    throw BadInput(fmt::format("{}: {} bytes, too short for safetensors", path.string(), file_bytes),
                   kRemedyAgain);
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | prefix[static_cast<std::size_t>(i)];
  if (length > kMaxHeaderBytes || length > file_bytes - 8)
    throw BadInput(fmt::format("{}: header of {} bytes in a file of {}", path.string(), length, file_bytes),
                   kRemedyAgain);
  std::string header(length, '\0');
  in.read(header.data(), static_cast<std::streamsize>(length));
  if (!in) throw BadInput(fmt::format("{}: header cannot be read", path.string()), kRemedyAgain);
  return header;
}

// Bytes that dtype and shape ask for; refuses what overflows or is not whole bytes.
std::uint64_t bytes_of(const fs::path& file, const TensorInfo& tensor) {
  const std::uint64_t bits = bits_of(tensor.dtype);
  if (bits == 0) refuse(file, tensor.name, "unknown dtype " + tensor.dtype.substr(0, 32));
  std::uint64_t total = bits;
  for (const std::int64_t extent : tensor.shape)
    if (__builtin_mul_overflow(total, static_cast<std::uint64_t>(extent), &total))
      refuse(file, tensor.name, "shape overflows");
  if (total % 8 != 0) refuse(file, tensor.name, "does not fill whole bytes");
  return total / 8;
}

TensorInfo read_tensor(const JsonObject& header, const std::string& name, const CheckpointFile& file,
                       int index) {
  const JsonObject entry = header.object(name);
  TensorInfo tensor{
      .name = name, .dtype = entry.text("dtype", ""), .shape = {}, .file = index, .offset = 0, .bytes = 0};
  tensor.shape = entry.integers("shape", kMaxRank);
  for (const std::int64_t extent : tensor.shape)
    if (extent < 0) refuse(file.path, name, "negative extent");
  const auto offsets = entry.integers("data_offsets", 2);
  const std::uint64_t data_start = 8 + file.header.size(), data_bytes = file.bytes - data_start;
  if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] < offsets[0] ||
      static_cast<std::uint64_t>(offsets[1]) > data_bytes)
    refuse(file.path, name, fmt::format("data_offsets outside the {} bytes of data", data_bytes));
  tensor.offset = data_start + static_cast<std::uint64_t>(offsets[0]);
  tensor.bytes = static_cast<std::uint64_t>(offsets[1] - offsets[0]);
  if (const auto expected = bytes_of(file.path, tensor); expected != tensor.bytes)
    refuse(file.path, name,
           fmt::format("holds {} bytes, dtype and shape ask for {}", tensor.bytes, expected));
  return tensor;
}

// The format promises that tensors tile the data without overlap or gap; a gap means a truncated or forged
// header.
void check_tiling(const CheckpointFile& file, std::vector<TensorInfo>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  std::uint64_t end = 8 + file.header.size();
  for (const TensorInfo& tensor : tensors) {
    if (tensor.offset != end) refuse(file.path, tensor.name, "overlaps its neighbour or leaves a gap");
    end += tensor.bytes;
  }
  if (end != file.bytes)
    throw BadInput(fmt::format("{}: {} bytes, the header describes {}", file.path.string(), file.bytes, end),
                   kRemedyAgain);
}

void add_file(Checkpoint& checkpoint, const fs::path& path) {
  std::error_code error;
  const std::uint64_t bytes = fs::file_size(path, error);
  if (error)
    throw BadInput(fmt::format("{}: {}", path.string(), error.message()), "download the missing file");
  const int index = static_cast<int>(checkpoint.files.size());
  CheckpointFile file{.path = path, .bytes = bytes, .header = read_header(path, bytes)};
  const JsonObject header(parse_json(file.header, path.string()), path.string());

  std::vector<TensorInfo> tensors;
  for (const std::string& name : header.keys())
    if (name != "__metadata__") tensors.push_back(read_tensor(header, name, file, index));
  check_tiling(file, tensors);
  for (TensorInfo& tensor : tensors) {
    const auto [it, fresh] = checkpoint.tensors.try_emplace(tensor.name, tensor);
    if (!fresh)
      refuse(
          path, tensor.name,
          "stands in " + checkpoint.files[static_cast<std::size_t>(it->second.file)].path.string() + " too");
  }
  checkpoint.files.push_back(std::move(file));
}

// A shard's name comes from a file; it must not lead out of the directory.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

Checkpoint open_sharded(const fs::path& directory, const fs::path& index_path) {
  const std::string index_file = index_path.string();
  const JsonObject index(parse_json(read_small_file(index_path, kMaxIndexBytes), index_file), index_file);
  const JsonObject map = index.object("weight_map");
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const std::string& name : map.keys()) {
    const std::string shard = map.text(name, "");
    if (!is_plain_name(shard)) map.refuse(name, "must name a file in the same directory");
    shard_of[name] = shard;
    shards.insert(shard);
  }
  Checkpoint checkpoint;
  for (const std::string& shard : shards) add_file(checkpoint, directory / shard);
  for (const auto& [name, shard] : shard_of) {
    const TensorInfo* tensor = checkpoint.find(name);
    if (tensor == nullptr ||
        checkpoint.files[static_cast<std::size_t>(tensor->file)].path.filename() != shard)
      throw BadInput(fmt::format("{}: tensor \"{}\" is not in {}", index_file, name, shard), kRemedyAgain);
  }
  return checkpoint;
}

}  // namespace

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto it = tensors.find(name);
  return it == tensors.end() ? nullptr : &it->second;
}

std::uint64_t Checkpoint::tensor_bytes() const {
  std::uint64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.bytes;
  return total;
}

Checkpoint open_checkpoint(const fs::path& directory) {
  if (const fs::path index = directory / "model.safetensors.index.json"; fs::exists(index))
    return open_sharded(directory, index);
  const fs::path single = directory / "model.safetensors";
  if (!fs::exists(single))
    throw BadInput(
        fmt::format("{}: neither model.safetensors nor model.safetensors.index.json", directory.string()),
        "only safetensors weights are read; convert *.bin files with Hugging Face's tools");
  Checkpoint checkpoint;
  add_file(checkpoint, single);
  return checkpoint;
}

DType weight_dtype(const TensorInfo& tensor, const Checkpoint& checkpoint) {
  if (tensor.dtype == "BF16") return DType::bf16;
  if (tensor.dtype == "F16") return DType::f16;
  if (tensor.dtype == "F32") return DType::f32;
  throw BadInput(fmt::format("{}: tensor \"{}\" holds {}; BF16, F16 and F32 are supported",
                             checkpoint.files[static_cast<std::size_t>(tensor.file)].path.string(),
                             tensor.name, tensor.dtype),
                 "quantized weights are not supported: use the bf16 version of this model");
}

}  // namespace nightshift::model
