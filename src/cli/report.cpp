// SPDX-License-Identifier: Apache-2.0
#include "runtime/job/report.h"

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "runtime/job/expected.h"
#include "runtime/job/finalize.h"
#include "runtime/job/standing.h"

namespace nightshift::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct ReportOptions {
  std::string output;
  std::string expected;
  double min_right = 0.0;
  bool json = false;
};

// Of the result, or of the journals of a job that has not finished.
runtime::Report find_report(const fs::path& output) {
  fs::path journal = output;
  journal += ".journal";
  if (fs::exists(journal / "job.json")) {
    return runtime::report_of_journals(runtime::Session(journal).read_job());
  }
  if (!fs::exists(output)) {
    throw BadInput(fmt::format("neither {} nor {} exists", output.string(), journal.string()),
                   "name a job's output");
  }
  const auto root = runtime::read_result_root(output);
  if (!root)
    throw BadInput(fmt::format("{} is not a result of nightshift", output.string()), "name a job's output");
  return {root->summary, root->provenance};
}

Exit report(const ReportOptions& options) {
  const runtime::Report found = find_report(options.output);
  std::optional<runtime::Scores> scores;
  if (!options.expected.empty()) scores = runtime::score_answers(options.output, options.expected);
  if (options.json) {
    json out{{"summary", json::parse(found.summary)}, {"provenance", json::parse(found.provenance)}};
    if (scores) out["expected"] = json::parse(runtime::to_json(*scores));
    std::cout << out.dump() << "\n";
  } else {
    std::cout << (scores ? runtime::to_text(*scores) : runtime::report_text(found.summary, found.provenance));
  }
  if (!scores || scores->all.share() >= options.min_right) return Exit::done;
  std::cerr << fmt::format("nightshift: {:.4f} of the answers are right, {:.4f} were asked for\n",
                           scores->all.share(), options.min_right);
  return Exit::failed;
}

}  // namespace

void add_report(Front& front) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command = front.app.add_subcommand("report", "Print speed, latencies and failures of a job");
  command->add_option("output", options->output, "a result, or the output of a job that is under way")
      ->required()
      ->type_name("OUTPUT.h5");
  auto* expected = command
                       ->add_option("--expected", options->expected,
                                    "print how many texts equal /expected/text of this file, by id")
                       ->type_name("PROMPTS.h5");
  command->add_option("--min-right", options->min_right, "exit code 1 when a smaller share is right")
      ->needs(expected)
      ->check(CLI::Range(0.0, 1.0).description(""))
      ->type_name("SHARE");
  command->add_flag("--json", options->json, "one JSON object: summary, provenance, expected");
  command->footer(
      "docs/operations.md defines every figure.\n\n"
      "Examples:\n"
      "  nightshift report answers.h5\n"
      "  nightshift report answers.h5 --json | jq .summary.throughput\n"
      "  nightshift report answers.h5 --expected prompts.h5 --min-right 0.95\n");
  command->callback([&front, options] { front.action = [options] { return report(*options); }; });
}

}  // namespace nightshift::cli
