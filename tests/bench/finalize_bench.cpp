// SPDX-License-Identifier: Apache-2.0
// How long it takes, and how much memory, to turn the journals of a large job into its result:
//   finalize_bench FOLDER [ROWS = 1000000] [JOURNALS = 8] [TOKENS = 64]
// FOLDER is made and holds input, journals and result; the answers are made up. Prints seconds and the peak
// of anonymous memory of the finalizing alone, which is in a process of its own.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>

#include "core/check.h"
#include "io/io.h"
#include "peak_anonymous.h"
#include "runtime/job/finalize.h"
#include "runtime/job/standing.h"

namespace {

using namespace nightshift;
namespace fs = std::filesystem;

Job make_input(const fs::path& dir, std::uint64_t rows) {
  fs::create_directories(dir);
  Job job;
  job.job.name = "finalize_bench";
  job.job.input = dir / "prompts.h5";
  job.job.output = dir / "answers.h5";
  const std::string lines = (dir / "prompts.jsonl").string();
  std::ofstream out(lines);
  for (std::uint64_t row = 0; row < rows; ++row)
    out << fmt::format(
               R"({{"custom_id":"q{}","method":"POST","url":"/v1/completions","body":{{"prompt":"p {}"}}}})",
               row, row)
        << '\n';
  out.close();
  io::import_batch(lines, job.job.input.string());
  return job;
}

// Rows in turns into all journals, so that the result's order is the worst for reading them.
void write_journals(const Job& job, std::uint64_t rows, int journals, std::size_t tokens) {
  const io::Manifest manifest = runtime::manifest_of(job, "input", "model");
  io::write_manifest(job.journal_dir().string(), manifest);
  const runtime::Session session(job);
  session.started_unix();
  session.write_job(job);
  std::vector<std::unique_ptr<io::ResultJournal>> files;
  for (int i = 0; i < journals; ++i)
    files.push_back(
        std::make_unique<io::ResultJournal>(job.journal_dir().string(), i, manifest.fingerprint()));
  io::ResultRecord record;
  record.finish_reason = FinishReason::stop;
  record.tokens.assign(tokens, 17);
  record.text.assign(4 * tokens, 'x');
  for (std::uint64_t row = 0; row < rows; ++row) {
    record.row = row;
    record.tokens[0] = static_cast<TokenId>(row % 30000);
    files[row % files.size()]->append(record);
  }
  for (const auto& file : files) file->close();
}

int finalize(const Job& job) {
  const test::PeakAnonymous memory;
  const auto begin = std::chrono::steady_clock::now();
  const runtime::Finalized done = runtime::finalize(job);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::cout << fmt::format("{} rows, {:.0f} MiB: {:.1f} s, peak {:.0f} MiB of anonymous memory\n",
                           done.result.rows, static_cast<double>(done.result.bytes) / 1048576.0, seconds,
                           static_cast<double>(memory.bytes()) / 1048576.0);
  return 0;
}

// So that the memory of one part is not counted with the next.
int in_own_process(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  int status = 1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: finalize_bench FOLDER [ROWS] [JOURNALS] [TOKENS]\n";
    return 2;
  }
  const fs::path dir = fs::absolute(argv[1]);
  const std::uint64_t rows = argc > 2 ? std::stoull(argv[2]) : 1000000;
  const int journals = argc > 3 ? std::stoi(argv[3]) : 8;
  const std::size_t tokens = argc > 4 ? std::stoull(argv[4]) : 64;
  Job job;
  job.job.output = dir / "answers.h5";
  job.job.input = dir / "prompts.h5";
  const auto make = [&] {
    write_journals(make_input(dir, rows), rows, journals, tokens);
    return 0;
  };
  if (in_own_process(make) != 0) return 1;
  return in_own_process([&] {
    const int code = finalize(job);
    std::cout.flush();
    return code;
  });
}
