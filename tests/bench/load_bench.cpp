// SPDX-License-Identifier: Apache-2.0
// How fast weights come in: a checkpoint read and packed by the ranks of a node, against plain pread of the
// same bytes by as many processes in the same order, and against touching as much fresh memory. All three are
// measured in turn, in one run; medians.
//
//   load_bench [--mib N] [--ranks N] [--threads N] [--rounds N] [--piece-kib N] [--dir PATH] [--kernels SET]
//              [--memory shared|private]
//
// A safetensors checkpoint of random bits is written to a temporary folder and removed at the end. cold: the
// page cache is told to drop the file before each measurement. Ranks are processes that share a counter of
// pieces. pread reads into one buffer again and again; loading packs into fresh memory: shared (4 KiB pages,
// as a window of ranks has) or, with one rank, private (huge pages where the system grants them). Where a
// virtual machine gives free memory back to its host, fresh memory is slow: the third figure tells.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>

#include "kernels/kernels.h"
#include "model/checkpoint_reader.h"

namespace nightshift {
namespace {

struct Settings {
  std::int64_t mib = 1024;
  int ranks = 1, threads = 1, rounds = 5;
  std::size_t piece_kib = model::CheckpointReader::kPieceBytes >> 10;
  std::string dir = std::filesystem::temp_directory_path().string();
  std::string kernels = "auto", memory = "shared";
};

Settings parse(int argc, char** argv) {
  Settings s;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--mib") s.mib = std::atol(argv[i + 1]);
    if (key == "--ranks") s.ranks = std::atoi(argv[i + 1]);
    if (key == "--threads") s.threads = std::atoi(argv[i + 1]);
    if (key == "--rounds") s.rounds = std::atoi(argv[i + 1]);
    if (key == "--piece-kib") s.piece_kib = static_cast<std::size_t>(std::atol(argv[i + 1]));
    if (key == "--dir") s.dir = value;
    if (key == "--kernels") s.kernels = value;
    if (key == "--memory") s.memory = value;
  }
  if (s.memory == "private" && s.ranks != 1)
    throw BadInput("private memory is that of one rank", "--ranks 1");
  return s;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// --- the checkpoint: the shape of a 1.5 to 3 billion parameter model, as many layers as fit ---

constexpr int kHidden = 2048, kIntermediate = 8192, kHeads = 16, kKvHeads = 8, kHeadDim = 128, kVocab = 32000;

struct Tensor {
  std::string name;
  std::int64_t rows, columns;  // columns 0: a vector
  std::int64_t bytes() const { return rows * std::max<std::int64_t>(columns, 1) * 2; }
};

std::vector<Tensor> tensors(std::int64_t total_bytes, int& layers) {
  constexpr int kQ = kHeads * kHeadDim, kKv = kKvHeads * kHeadDim;
  std::vector<Tensor> all{{"model.embed_tokens.weight", kVocab, kHidden}, {"model.norm.weight", kHidden, 0}};
  std::int64_t bytes = all[0].bytes();
  for (layers = 0; bytes < total_bytes || layers == 0; ++layers) {
    const std::string prefix = fmt::format("model.layers.{}.", layers);
    for (const Tensor& t : {Tensor{"input_layernorm.weight", kHidden, 0},
                            {"self_attn.q_proj.weight", kQ, kHidden},
                            {"self_attn.k_proj.weight", kKv, kHidden},
                            {"self_attn.v_proj.weight", kKv, kHidden},
                            {"self_attn.o_proj.weight", kHidden, kQ},
                            {"post_attention_layernorm.weight", kHidden, 0},
                            {"mlp.gate_proj.weight", kIntermediate, kHidden},
                            {"mlp.up_proj.weight", kIntermediate, kHidden},
                            {"mlp.down_proj.weight", kHidden, kIntermediate}}) {
      all.push_back({prefix + t.name, t.rows, t.columns});
      bytes += t.bytes();
    }
  }
  return all;
}

void write_checkpoint(const std::filesystem::path& dir, std::int64_t total_bytes) {
  int layers = 0;
  const std::vector<Tensor> all = tensors(total_bytes, layers);
  std::ofstream(dir / "config.json") << fmt::format(
      R"({{"model_type": "llama", "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {},)"
      R"("num_attention_heads": {}, "num_key_value_heads": {}, "head_dim": {}, "vocab_size": {},)"
      R"("tie_word_embeddings": true, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}})",
      kHidden, kIntermediate, layers, kHeads, kKvHeads, kHeadDim, kVocab);
  std::string header = "{";
  std::int64_t offset = 0;
  for (const Tensor& t : all) {
    const std::string shape =
        t.columns == 0 ? fmt::format("[{}]", t.rows) : fmt::format("[{}, {}]", t.rows, t.columns);
    header += fmt::format(R"({}"{}": {{"dtype": "BF16", "shape": {}, "data_offsets": [{}, {}]}})",
                          offset == 0 ? "" : ",", t.name, shape, offset, offset + t.bytes());
    offset += t.bytes();
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::ofstream out(dir / "model.safetensors", std::ios::binary);
  for (int i = 0; i < 8; ++i) out.put(static_cast<char>(header.size() >> (8 * i)));
  out << header;
  std::mt19937_64 random(1);
  std::vector<std::uint64_t> block(std::size_t{1} << 17);
  for (std::uint64_t& x : block) x = random();
  for (std::int64_t left = offset; left > 0; left -= static_cast<std::int64_t>(block.size() * 8))
    out.write(reinterpret_cast<const char*>(block.data()),
              std::min(left, static_cast<std::int64_t>(block.size() * 8)));
  if (!out.flush()) throw Error(fmt::format("{}: cannot be written", dir.string()), "give --dir more room");
}

// --- memory that ranks share ---

std::byte* map(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw Error(fmt::format("no memory for {} bytes", bytes), "give a smaller --mib");
  return static_cast<std::byte*>(memory);
}

struct Board {  // at the start of shared memory
  std::atomic<std::uint64_t> next_piece;
  std::atomic<int> ready;
  std::atomic<bool> go;
  std::atomic<double> end;  // when the last rank had finished, before it gave back its memory
  std::atomic<double> cpu;  // seconds of all ranks until then
};

struct Cost {
  double seconds = 0, cpu = 0;
};

// Where packed matrices lie: one behind the other, gate and up of a layer as one.
struct Plan {
  std::vector<std::size_t> offset;  // per weight of the checkpoint
  std::size_t bytes = 0;

  Plan(const model::ModelFiles& files, kernels::Backend& backend) {
    std::vector<std::size_t> gate_up(static_cast<std::size_t>(files.config.shape.layers), SIZE_MAX);
    for (const model::WeightTensor& w : files.weights) {
      const bool interleaved = w.weight == model::Weight::gate || w.weight == model::Weight::up;
      const bool vector = w.shape.columns == 0;
      std::size_t* shared = interleaved ? &gate_up[static_cast<std::size_t>(w.layer)] : nullptr;
      if (shared != nullptr && *shared != SIZE_MAX) {
        offset.push_back(*shared);
        continue;
      }
      offset.push_back(bytes);
      if (shared != nullptr) *shared = bytes;
      const std::int64_t rows = interleaved ? kernels::gate_up_rows(w.shape.rows) : w.shape.rows;
      const std::size_t size =
          vector ? static_cast<std::size_t>(rows) * 4 : backend.packed_bytes(rows, w.shape.columns);
      bytes += (size + 4095) / 4096 * 4096;
    }
  }
};

void pack(const model::ModelFiles& files, const Plan& plan, const model::CheckpointPiece& piece,
          kernels::Backend& backend, std::byte* memory) {
  const model::WeightTensor& w = *piece.weight;
  if (w.shape.columns == 0) return;
  std::byte* to = memory + plan.offset[static_cast<std::size_t>(&w - files.weights.data())];
  const bool up = w.weight == model::Weight::up;
  const bool interleaved = up || w.weight == model::Weight::gate;
  const std::int64_t n = interleaved ? kernels::gate_up_rows(w.shape.rows) : w.shape.rows;
  kernels::PackedMatrix matrix =
      backend.make_packed(n, w.shape.columns, {to, backend.packed_bytes(n, w.shape.columns)});
  const kernels::MatrixView<const bf16> rows{reinterpret_cast<const bf16*>(piece.data.data()), piece.rows,
                                             piece.columns};
  if (!interleaved) return backend.pack_rows(matrix, piece.first_row, rows);
  for (std::int64_t r = 0; r < piece.rows; r += 32)
    backend.pack_rows(matrix, kernels::gate_up_row(piece.first_row + r, up),
                      rows.rows_from(r, std::min<std::int64_t>(32, piece.rows - r)));
}

void plain_read(const model::ModelFiles& files, const Settings& s, Board& board) {
  const model::CheckpointPieces pieces(files, s.piece_kib << 10);
  const int fd = ::open(files.checkpoint.files[0].path.c_str(), O_RDONLY);
  std::vector<std::byte> buffer;
  for (std::uint64_t number; (number = board.next_piece++) < pieces.count();) {
    const model::CheckpointPiece piece = pieces.at(number);
    const std::size_t bytes = model::CheckpointPieces::bytes(piece);
    if (buffer.size() < bytes) buffer.resize(bytes);
    if (::pread(fd, buffer.data(), bytes, static_cast<off_t>(pieces.offset(piece))) !=
        static_cast<ssize_t>(bytes))
      throw Error("pread came back short", "run again");
  }
  ::close(fd);
}

void load(const model::ModelFiles& files, const Settings& s, Board& board, kernels::Backend& backend,
          const Plan& plan, std::byte* memory) {
  const std::uint64_t pieces = model::CheckpointReader::pieces(files, s.piece_kib << 10);
  const auto claim = [&]() -> std::optional<std::uint64_t> {
    const std::uint64_t number = board.next_piece++;
    return number < pieces ? std::optional(number) : std::nullopt;
  };
  model::CheckpointReader reader(files, claim, s.piece_kib << 10);
  while (const model::CheckpointPiece* piece = reader.next()) pack(files, plan, *piece, backend, memory);
}

double cpu_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// What a rank does: prepare() without being timed, which gives the work to be timed.
template <class Prepare>
void be_rank(int rank, Board& board, const Prepare& prepare) {
  const auto work = prepare(rank);
  ++board.ready;
  while (!board.go) ::usleep(20);
  const double before = cpu_seconds();
  work();
  board.cpu += cpu_seconds() - before;
  const double end = now();
  for (double last = board.end; last < end && !board.end.compare_exchange_weak(last, end);) {
  }
}

// A process per rank, all started at once: seconds until the last has finished.
template <class Prepare>
Cost in_ranks(int ranks, Board& board, const Prepare& prepare) {
  board.next_piece = 0;
  board.ready = 0;
  board.go = false;
  board.end = board.cpu = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    if (::fork() != 0) continue;
    int status = 0;
    try {
      be_rank(rank, board, prepare);
    } catch (const std::exception& e) {
      fmt::print(stderr, "{}\n", e.what());
      ++board.ready;
      status = 1;
    }
    std::_Exit(status);
  }
  while (board.ready < ranks) ::usleep(100);
  const double begin = now();
  board.go = true;
  for (int rank = 0, status = 0; rank < ranks; ++rank)
    if (::wait(&status) < 0 || status != 0) throw Error("a rank failed", "see above");
  return {board.end - begin, board.cpu};
}

void drop_from_cache(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  ::fdatasync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

struct Result {  // medians
  Cost read, touch, load;
  double share;  // time of reading in that of loading, of the same round
};

class Bench {
 public:
  Bench(const Settings& s, const std::filesystem::path& dir)
      : s_(s),
        files_(model::open_model_files(dir)),
        board_(*new (map(4096)) Board{}),
        window_bytes_(files_.checkpoint.tensor_bytes() + (std::size_t{64} << 20)) {}

  Result measure(bool cold) {
    std::vector<Cost> reads, touches, loads;
    std::vector<double> shares;
    for (int round = 0; round < s_.rounds; ++round) {
      if (cold) drop_from_cache(files_.checkpoint.files[0].path);
      reads.push_back(
          in_ranks(s_.ranks, board_, [&](int) { return [&] { plain_read(files_, s_, board_); }; }));
      touches.push_back(touch());
      if (cold) drop_from_cache(files_.checkpoint.files[0].path);
      loads.push_back(load_all());
      shares.push_back(reads.back().seconds / loads.back().seconds);
    }
    return {median(reads), median(touches), median(loads), median(shares)};
  }

  double gigabytes() const { return static_cast<double>(files_.checkpoint.tensor_bytes()) * 1e-9; }

 private:
  static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }
  static Cost median(const std::vector<Cost>& costs) {
    std::vector<double> seconds, cpu;
    for (const Cost& c : costs) seconds.push_back(c.seconds), cpu.push_back(c.cpu);
    return {median(seconds), median(cpu)};
  }

  // prepare(rank, fresh memory) in every rank.
  template <class Prepare>
  Cost in_window(const Prepare& prepare) {
    std::byte* window = s_.memory == "shared" ? map(window_bytes_) : nullptr;
    std::optional<kernels::Environment> environment;  // of a rank
    std::unique_ptr<kernels::Backend> backend;
    kernels::Buffer own;
    const Cost cost = in_ranks(s_.ranks, board_, [&](int rank) {
      environment.emplace(s_.threads);
      backend = kernels::make_backend({.threads = s_.threads, .kernels = s_.kernels});
      if (window == nullptr) own = backend->allocate(window_bytes_, "bench::weights");
      return prepare(rank, *backend, window != nullptr ? window : own.as<std::byte>());
    });
    if (window != nullptr) ::munmap(window, window_bytes_);
    return cost;
  }

  Cost touch() {
    return in_window([&](int rank, kernels::Backend&, std::byte* memory) {
      const std::size_t share = files_.checkpoint.tensor_bytes() / static_cast<std::size_t>(s_.ranks);
      return [first = memory + share * static_cast<std::size_t>(rank), share] {
        for (std::size_t at = 0; at < share; at += 4096) first[at] = std::byte{1};
      };
    });
  }

  Cost load_all() {
    return in_window([&](int, kernels::Backend& backend, std::byte* memory) {
      Plan plan(files_, backend);
      if (plan.bytes > window_bytes_) throw Error("the packed weights do not fit", "this is a bug");
      return [&, memory, plan = std::move(plan)] { load(files_, s_, board_, backend, plan, memory); };
    });
  }

  const Settings& s_;
  model::ModelFiles files_;
  Board& board_;
  std::size_t window_bytes_;  // as large as what is packed at most: padding of panels and pages is small
};

void report(const Settings& s, const std::filesystem::path& dir) {
  write_checkpoint(dir, s.mib << 20);
  Bench bench(s, dir);
  const double gb = bench.gigabytes();
  fmt::print("{:.2f} GB, {} ranks x {} threads, pieces of {} KiB, {} memory, medians of {}\n", gb, s.ranks,
             s.threads, s.piece_kib, s.memory, s.rounds);
  for (const bool cold : {true, false}) {
    const Result t = bench.measure(cold);
    fmt::print(
        "{}: load {:.2f} GB/s, {:.1f} % of pread ({:.2f} GB/s); fresh memory {:.2f} GB/s; CPU s/GB: load "
        "{:.2f}, "
        "pread {:.2f}, fresh memory {:.2f}\n",
        cold ? "cold" : "warm", gb / t.load.seconds, 100 * t.share, gb / t.read.seconds, gb / t.touch.seconds,
        t.load.cpu / gb, t.read.cpu / gb, t.touch.cpu / gb);
    std::fflush(stdout);
  }
}

int run(int argc, char** argv) {
  const Settings s = parse(argc, argv);
  std::string dir = (std::filesystem::path(s.dir) / "load-bench-XXXXXX").string();
  if (::mkdtemp(dir.data()) == nullptr) throw Error(fmt::format("{}: no folder here", s.dir), "give --dir");
  try {
    report(s, dir);
  } catch (...) {
    std::filesystem::remove_all(dir);
    throw;
  }
  std::filesystem::remove_all(dir);
  return 0;
}

}  // namespace
}  // namespace nightshift

int main(int argc, char** argv) try { return nightshift::run(argc, argv); } catch (const std::exception& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 1;
}
