// SPDX-License-Identifier: Apache-2.0
// nightshift submit: a job goes to Slurm.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "cli/commands.h"
#include "cli/preflight.h"
#include "core/config.h"
#include "runtime/job/shell.h"
#include "runtime/job/submission.h"

namespace nightshift::cli {
namespace {

namespace fs = std::filesystem;

struct SubmitOptions {
  std::string job_file;
  std::string template_name = "single";
  int chain = 1;
  std::string time, nodes, partition, account, ranks;
  std::vector<std::string> overrides;
  std::vector<std::string> inputs;
  std::vector<std::string> extra;
  bool dry_run = false;
};

fs::path program() {
  return fs::read_symlink("/proc/self/exe");
}

std::string read_text(const fs::path& file) {
  std::ifstream in(file);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) throw Error(fmt::format("cannot read {}", file.string()));
  return text.str();
}

// Found now rather than when the job's turn comes. An array has a job for each input.
void check_inputs(const Job& job, const std::vector<fs::path>& inputs) {
  if (inputs.empty()) check_files(job);
  for (const fs::path& input : inputs) {
    Job task = job;
    task.job.input = input;
    check_files(task);
  }
}

runtime::Submission submission_of(const SubmitOptions& options, const Job& job) {
  runtime::Submission s;
  s.job_name = job.job.name;
  s.program = program();
  s.output = job.job.output;
  for (const std::string& input : options.inputs) s.inputs.push_back(fs::absolute(input).lexically_normal());
  s.arguments = {fs::absolute(options.job_file).lexically_normal().string()};
  for (const std::string& setting : options.overrides)
    s.arguments.insert(s.arguments.end(), {"--set", setting});
  if (!options.ranks.empty()) s.arguments.insert(s.arguments.end(), {"--ranks", options.ranks});
  for (const auto& [name, value] : {std::pair{"time", options.time},
                                    {"nodes", options.nodes},
                                    {"partition", options.partition},
                                    {"account", options.account}}) {
    if (!value.empty()) s.options[name] = value;
  }
  // Relative paths of --set count from here, wherever Slurm would start the script.
  s.options["chdir"] = fs::current_path().string();
  s.extra = options.extra;
  return s;
}

// The script as a file that has no name, from which sbatch can read.
int script_file(const std::string& script) {
  const int file = ::memfd_create("nightshift.sbatch", MFD_CLOEXEC);
  const auto size = static_cast<ssize_t>(script.size());
  if (file < 0 || ::write(file, script.data(), script.size()) != size || ::lseek(file, 0, SEEK_SET) != 0)
    throw Error(fmt::format("cannot hand the script to sbatch: {}", std::strerror(errno)));
  return file;
}

[[noreturn]] void become(const std::vector<std::string>& words, int input, int output) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::dup2(input, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::execvp(argv[0], argv.data());
  ::_exit(errno == ENOENT ? 127 : 126);
}

// Runs sbatch with the script as its input; what it says on stderr goes to the user. Returns what it prints.
std::string submit(const std::vector<std::string>& command, const std::string& script) {
  const int input = script_file(script);
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) throw Error(fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  const pid_t pid = ::fork();
  if (pid < 0) throw Error(fmt::format("cannot start sbatch: {}", std::strerror(errno)));
  if (pid == 0) become(command, input, pipe[1]);
  ::close(pipe[1]);
  ::close(input);
  std::string printed;
  char bytes[512];
  for (ssize_t size = 0; (size = ::read(pipe[0], bytes, sizeof bytes)) != 0;) {
    if (size > 0) printed.append(bytes, static_cast<std::size_t>(size));
    if (size < 0 && errno != EINTR) break;
  }
  ::close(pipe[0]);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return printed;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) {
    throw BadInput(
        "sbatch is not in PATH",
        "submit where Slurm's commands are, mostly a login node; --dry-run shows what would be submitted");
  }
  throw Error("sbatch refused the job", "what it said stands above; --dry-run shows command and script");
}

std::string text_of(const std::vector<std::string>& command) {
  std::vector<std::string> words;
  for (const std::string& word : command) words.push_back(runtime::shell_quoted(word));
  return fmt::format("{}", fmt::join(words, " "));
}

Exit show(const runtime::Submission& s, const std::string& script, int chain) {
  std::cerr << text_of(runtime::sbatch_command(s)) << "\n";
  if (chain > 1) {
    std::cerr << fmt::format("and {} more, each behind those before:\n{}\n", chain - 1,
                             text_of(runtime::sbatch_command(s, {"IDS"})));
  }
  std::cout << script;
  return Exit::done;
}

// Prints the ids as they come, so that what is queued is known when a later one is refused.
Exit submit_all(const runtime::Submission& s, const std::string& script, int chain) {
  fs::create_directories(s.output.parent_path());  // of the log too, which Slurm would not make
  std::vector<std::string> ids;
  for (int i = 0; i < chain; ++i) {
    const std::string printed = submit(runtime::sbatch_command(s, ids), script);
    const auto id = runtime::parse_job_id(printed);
    if (!id) {
      throw Error(fmt::format("sbatch printed no job id: {}", printed),
                  "an option behind -- may have changed what it prints; look with squeue --me");
    }
    std::cout << *id << std::endl;
    ids.push_back(*id);
  }
  std::cerr << fmt::format("{}: submitted; progress: nightshift status {}; stop: scancel {}\n", s.job_name,
                           runtime::shell_quoted(s.output.string()), fmt::join(ids, " "));
  return Exit::done;
}

Exit run(const SubmitOptions& options) {
  if (options.chain < 1 || options.chain > 1000)
    throw BadInput(fmt::format("--chain {}", options.chain), "a number of jobs from 1 to 1000");
  const Job job = load_job(options.job_file, options.overrides);
  const runtime::Submission s = submission_of(options, job);
  const fs::path folder = program().parent_path().parent_path() / "share" / "nightshift" / "slurm";
  const fs::path file = runtime::find_template(options.template_name, folder);
  const std::string script = runtime::render(read_text(file), options.template_name, s);
  check_inputs(job, s.inputs);
  return options.dry_run ? show(s, script, options.chain) : submit_all(s, script, options.chain);
}

void add_options(CLI::App& command, SubmitOptions& options) {
  command.add_option("job", options.job_file, "the job file; nightshift help job lists its keys")
      ->required()
      ->type_name("JOB.toml");
  command.add_option("sbatch", options.extra, "behind --: options for sbatch, as they are")
      ->type_name("SBATCH-OPTION");
  command
      .add_option("--template", options.template_name,
                  "single, multi, array, preemptible, or a file of your own")
      ->type_name("NAME|FILE");
  command
      .add_option("--chain", options.chain,
                  "jobs one behind the other; each goes on where the time limit ended the last")
      ->type_name("N");
  command.add_option("--time", options.time, "time limit of each job")->type_name("TIME");
  command.add_option("--nodes", options.nodes, "nodes of each job")->type_name("N");
  command.add_option("--partition", options.partition, "Slurm partition")->type_name("NAME");
  command.add_option("--account", options.account, "whom to charge")->type_name("NAME");
  command.add_option("--ranks", options.ranks, "as of nightshift run")->type_name("N");
  command.add_option("--set", options.overrides, "set a key of the job file; may be repeated")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  command
      .add_option("--input", options.inputs,
                  "an array's inputs, one task and one result each; may be repeated")
      ->allow_extra_args(false)
      ->type_name("FILE");
  command.add_flag("--dry-run", options.dry_run, "print the sbatch command and the script, submit nothing");
}

}  // namespace

void add_submit(Front& front) {
  auto options = std::make_shared<SubmitOptions>();
  CLI::App* command =
      front.app.add_subcommand("submit", "Hand a job to Slurm through a batch script template");
  add_options(*command, *options);
  command->footer(
      "Prints the ids of the Slurm jobs. Submitting the same job again continues it. The log stands beside "
      "the\n"
      "output. slurm/README.md has the templates and what a site may change.\n\n"
      "Examples:\n"
      "  nightshift submit job.toml --template multi --nodes 4 --time 4:00:00 --chain 3 -- --gres=gpu:4\n"
      "  nightshift submit job.toml --template preemptible --partition spare --dry-run\n"
      "  nightshift submit job.toml --template array --input part-00.jsonl --input part-01.jsonl\n");
  command->callback([&front, options] { front.action = [options] { return run(*options); }; });
}

}  // namespace nightshift::cli
