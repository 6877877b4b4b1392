// SPDX-License-Identifier: Apache-2.0
#include "io/prompts.h"

#include <algorithm>
#include <array>

#include "core/check.h"
#include "core/text.h"
#include "io/hdf5.h"
#include "io/journal.h"
#include "io/prompt_params.h"
#include "io/text_checks.h"
#include "io/unique_ids.h"

namespace nightshift::io {
namespace {

constexpr std::uint64_t kTokensPerRead = 1u << 20;
constexpr std::uint64_t kLongestPrompt = 1u << 24;  // tokens; beyond any context, a broken offsets column
constexpr std::uint64_t kOffsetsPerRead = 1u << 16;
constexpr std::array<std::string_view, 6> kKnown{"text", "messages", "tokens", "offsets", "id", "extra"};

std::string shape_of(const h5::Dataset& data) {
  return fmt::format("[{}]", fmt::join(data.info().shape, ", "));
}

[[noreturn]] void refuse(const h5::File& file, const std::string& what, const std::string& legal) {
  throw BadInput(fmt::format("{}: {}", file.path(), what), legal);
}

h5::Dataset open_column(const h5::File& file, const std::string& name, h5::TypeClass type,
                        const char* type_name) {
  h5::Dataset data = file.dataset(name);
  if (!data.info().is_column() || data.info().type != type) {
    refuse(file, fmt::format("{} holds {} in shape {}", name, data.info().type_name, shape_of(data)),
           fmt::format("it needs {} in shape [N]", type_name));
  }
  file.check_extent(data);
  return data;
}

PromptForm find_form(const h5::File& file) {
  std::vector<PromptForm> forms;
  std::vector<std::string> names;
  for (const PromptForm form : {PromptForm::text, PromptForm::messages, PromptForm::tokens}) {
    if (!file.has(fmt::format("/prompts/{}", name_of(form)))) continue;
    forms.push_back(form);
    names.push_back(fmt::format("/prompts/{}", name_of(form)));
  }
  if (forms.size() == 1) return forms[0];
  const char* legal =
      "give exactly one of /prompts/text, /prompts/messages, or /prompts/tokens with /prompts/offsets";
  if (forms.size() > 1) refuse(file, fmt::format("has {}", fmt::join(names, " and ")), legal);
  refuse(file, fmt::format("has no prompts; its root holds: {}", fmt::join(file.children("/"), ", ")), legal);
}

// A name next to one of ours that is missing is a slip of the pen; any other extra column is the user's own
// affair.
void refuse_near_misses(const h5::File& file) {
  for (const std::string& name : file.children("/prompts")) {
    if (std::find(kKnown.begin(), kKnown.end(), name) != kKnown.end()) continue;
    const std::string_view close = nearest(name, kKnown);
    if (!close.empty() && !file.has(fmt::format("/prompts/{}", close))) {
      refuse(file, fmt::format("/prompts/{} is not a column; did you mean /prompts/{}?", name, close),
             fmt::format("known columns: {}", fmt::join(kKnown, ", ")));
    }
  }
}

std::string utf8_problem(std::string_view what, std::string_view text) {
  const auto bad = invalid_utf8(text);
  return bad ? fmt::format("invalid_utf8: {}byte {}", what, *bad) : std::string();
}

}  // namespace

const char* name_of(PromptForm form) {
  constexpr std::array names{"text", "messages", "tokens"};
  return names[static_cast<std::size_t>(form)];
}

struct PromptReader::Impl {
  h5::File file;
  SamplingParams defaults;
  PromptForm form;
  h5::Dataset data;     // text, messages or tokens
  h5::Dataset offsets;  // form tokens
  std::optional<h5::Dataset> id;
  std::uint64_t rows = 0;
  std::optional<ParamColumns> params;

  Impl(const std::string& path, SamplingParams job_defaults)
      : file(h5::File::open(path)), defaults(std::move(job_defaults)), form(find_form(file)) {
    refuse_near_misses(file);
    const std::string name = fmt::format("/prompts/{}", name_of(form));
    if (form == PromptForm::tokens) {
      data = open_column(file, name, h5::TypeClass::integer, "integers");
      open_offsets();
    } else {
      data = open_column(file, name, h5::TypeClass::string, "strings");
      rows = data.rows();
    }
    if (rows >= kMaxRows)
      refuse(file, fmt::format("{} has {} rows", name, rows), fmt::format("at most {}", kMaxRows));
    open_id();
    params.emplace(file, rows);
  }

  void open_offsets() {
    if (!file.has("/prompts/offsets")) {
      refuse(file, "has /prompts/tokens without /prompts/offsets", "add /prompts/offsets, uint64 [N+1]");
    }
    offsets = open_column(file, "/prompts/offsets", h5::TypeClass::integer, "integers");
    if (offsets.rows() == 0) refuse(file, "/prompts/offsets is empty", "it needs N+1 values, the first 0");
    rows = offsets.rows() - 1;
    const std::vector<std::int64_t> ends{read_offsets(0, 1)[0], read_offsets(rows, 1)[0]};
    if (ends[0] != 0 || static_cast<std::uint64_t>(ends[1]) != data.rows()) {
      refuse(file,
             fmt::format("/prompts/offsets goes from {} to {}, and /prompts/tokens has {} elements", ends[0],
                         ends[1], data.rows()),
             fmt::format("it must go from 0 to {}", data.rows()));
    }
  }

  void open_id() {
    if (!file.has("/prompts/id")) return;
    id = file.dataset("/prompts/id");
    const h5::TypeClass type = id->info().type;
    if (type != h5::TypeClass::string && type != h5::TypeClass::integer) {
      refuse(file, fmt::format("/prompts/id holds {}", id->info().type_name), "ids are strings or integers");
    }
    if (!id->info().is_column() || id->rows() != rows) {
      refuse(file, fmt::format("/prompts/id has shape {}", shape_of(*id)),
             fmt::format("one id per prompt: [{}]", rows));
    }
  }

  // offsets[first .. first + count - 1]; refuses a fall inside. Signed, because HDF5 would turn a negative
  // into 0.
  std::vector<std::int64_t> read_offsets(std::uint64_t first, std::uint64_t count) const {
    std::vector<std::int64_t> values(count);
    offsets.read(first, count, values.data());
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t before = i == 0 ? 0 : values[i - 1];
      if (values[i] >= before && static_cast<std::uint64_t>(values[i]) <= data.rows()) continue;
      refuse(file, fmt::format("/prompts/offsets[{}] is {}, after {}", first + i, values[i], before),
             fmt::format("offsets must not fall nor pass the {} tokens", data.rows()));
    }
    return values;
  }

  std::vector<RowId> read_ids(PromptRow first, std::uint64_t count) const {
    std::vector<RowId> ids(count);
    if (!id) {
      for (std::uint64_t i = 0; i < count; ++i) ids[i] = static_cast<std::int64_t>(first + i);
    } else if (id->info().type == h5::TypeClass::string) {
      std::vector<std::string> texts = id->read_strings(first, count);
      for (std::uint64_t i = 0; i < count; ++i) ids[i] = std::move(texts[i]);
    } else {
      read_integer_ids(first, ids);
    }
    return ids;
  }

  void read_integer_ids(PromptRow first, std::vector<RowId>& ids) const {
    if (id->info().is_signed) {
      std::vector<std::int64_t> values(ids.size());
      id->read(first, values.size(), values.data());
      std::copy(values.begin(), values.end(), ids.begin());
      return;
    }
    std::vector<std::uint64_t> values(ids.size());
    id->read(first, values.size(), values.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] > std::numeric_limits<std::int64_t>::max()) {
        refuse(file, fmt::format("/prompts/id[{}] is {}", first + i, values[i]),
               "integer ids must fit in int64");
      }
      ids[i] = static_cast<std::int64_t>(values[i]);
    }
  }

  void read_texts(PromptRow first, std::vector<Prompt>& prompts) const {
    std::vector<std::string> texts = data.read_strings(first, prompts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      Prompt& prompt = prompts[i];
      prompt.text = std::move(texts[i]);
      prompt.error = utf8_problem("", prompt.text);
      if (!prompt.error.empty() || form != PromptForm::messages) continue;
      if (const std::string problem = messages_problem(prompt.text); !problem.empty()) {
        prompt.error = "bad_messages: " + problem;
      }
    }
  }

  // Reads the tokens of several rows with one call, a bounded number at a time.
  void read_tokens(PromptRow first, std::vector<Prompt>& prompts) const {
    const std::vector<std::int64_t> bounds = read_offsets(first, prompts.size() + 1);
    const auto length = [&](std::size_t from, std::size_t to) {
      return static_cast<std::uint64_t>(bounds[to] - bounds[from]);
    };
    std::vector<std::int64_t> values;
    for (std::size_t i = 0; i < prompts.size();) {
      if (length(i, i + 1) > kLongestPrompt) {
        prompts[i].error =
            fmt::format("bad_tokens: {} tokens are more than any model takes", length(i, i + 1));
        ++i;
        continue;
      }
      std::size_t end = i + 1;
      while (end < prompts.size() && length(i, end + 1) <= kTokensPerRead) ++end;
      values.resize(length(i, end));
      data.read(static_cast<std::uint64_t>(bounds[i]), values.size(), values.data());
      for (const std::size_t start = i; i < end; ++i) {
        set_tokens(prompts[i], std::span(values).subspan(length(start, i), length(i, i + 1)));
      }
    }
  }

  static void set_tokens(Prompt& prompt, std::span<const std::int64_t> values) {
    prompt.tokens.reserve(values.size());
    for (const std::int64_t value : values) {
      if (value < 0 || value > std::numeric_limits<TokenId>::max()) {
        prompt.error = fmt::format("bad_tokens: token {} is {}; ids are 0 to {}", prompt.tokens.size(), value,
                                   std::numeric_limits<TokenId>::max());
        return;
      }
      prompt.tokens.push_back(static_cast<TokenId>(value));
    }
  }
};

PromptReader::PromptReader(const std::string& path, SamplingParams defaults)
    : impl_(std::make_unique<Impl>(path, std::move(defaults))) {}
PromptReader::PromptReader(PromptReader&&) noexcept = default;
PromptReader& PromptReader::operator=(PromptReader&&) noexcept = default;
PromptReader::~PromptReader() = default;

const std::string& PromptReader::path() const {
  return impl_->file.path();
}

std::uint64_t PromptReader::rows() const {
  return impl_->rows;
}

PromptForm PromptReader::form() const {
  return impl_->form;
}

bool PromptReader::has_text_ids() const {
  return impl_->id && impl_->id->info().type == h5::TypeClass::string;
}

std::vector<RowId> PromptReader::read_ids(PromptRow first, std::uint64_t count) const {
  first = std::min(first, rows());
  return impl_->read_ids(first, std::min(count, rows() - first));
}

std::vector<Prompt> PromptReader::read(PromptRow first, std::uint64_t count) const {
  first = std::min(first, rows());
  count = std::min(count, rows() - first);
  std::vector<Prompt> prompts(count);
  if (count == 0) return prompts;
  std::vector<RowId> ids = impl_->read_ids(first, count);
  for (std::size_t i = 0; i < count; ++i) {
    prompts[i].row = first + i;
    prompts[i].form = impl_->form;
    prompts[i].params = impl_->defaults;
    prompts[i].id = std::move(ids[i]);
  }
  if (impl_->form == PromptForm::tokens) {
    impl_->read_tokens(first, prompts);
  } else {
    impl_->read_texts(first, prompts);
  }
  for (Prompt& prompt : prompts) {
    const auto* id = std::get_if<std::string>(&prompt.id);
    if (id != nullptr && prompt.error.empty()) prompt.error = utf8_problem("/prompts/id, ", *id);
  }
  impl_->params->apply(first, prompts);
  return prompts;
}

void PromptReader::check_all_rows() const {
  if (impl_->form == PromptForm::tokens) {
    for (std::uint64_t first = 0; first < rows(); first += kOffsetsPerRead) {
      impl_->read_offsets(first, std::min(kOffsetsPerRead, rows() - first) + 1);
    }
  }
  if (!impl_->id) return;
  const auto read = [this](PromptRow first, std::uint64_t count) { return impl_->read_ids(first, count); };
  if (const auto repeated = find_repeated_id(rows(), read)) {
    const RowId id = impl_->read_ids(repeated->first, 1)[0];
    const std::string text = std::holds_alternative<std::string>(id)
                                 ? fmt::format("\"{}\"", std::get<std::string>(id))
                                 : std::to_string(std::get<std::int64_t>(id));
    refuse(impl_->file,
           fmt::format("/prompts/id {} stands in rows {} and {}", text, repeated->first, repeated->second),
           "ids must be unique; without /prompts/id the row numbers serve");
  }
}

std::optional<std::vector<std::uint64_t>> PromptReader::unit_costs(std::uint64_t unit_rows) const {
  NS_CHECK(unit_rows > 0);
  const bool has_lengths = impl_->form == PromptForm::tokens, has_limits = impl_->params->has_max_tokens();
  if (!has_lengths && !has_limits) return std::nullopt;
  std::vector<std::uint64_t> costs((rows() + unit_rows - 1) / unit_rows, 0);
  for (PromptRow first = 0; first < rows(); first += kOffsetsPerRead) {
    const std::uint64_t count = std::min(kOffsetsPerRead, rows() - first);
    const auto bounds =
        has_lengths ? impl_->read_offsets(first, count + 1) : std::vector<std::int64_t>(count + 1, 0);
    const std::vector<std::uint64_t> limits =
        impl_->params->max_tokens(first, count, impl_->defaults.max_tokens);
    for (std::uint64_t i = 0; i < count; ++i) {
      costs[(first + i) / unit_rows] += static_cast<std::uint64_t>(bounds[i + 1] - bounds[i]) + limits[i];
    }
  }
  return costs;
}

}  // namespace nightshift::io
