// SPDX-License-Identifier: Apache-2.0
// The room's door for scripts: one JSON object per line of stdin, one JSON value per line of stdout.
//   tokenizer_tool MODEL_DIR
//   {"encode": text, "special": bool} -> [ids]           {"decode": [ids], "skip": bool} -> text
//   {"stream": [ids], "skip": bool} -> [pieces]          {"chat": [messages], "extra": {...}} -> text
//   {"open": MODEL_DIR, "template": choice} -> true      {"time": file} -> {"ids": count, "seconds": once}
// A failure answers {"error": message}.
#include <ctime>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tokenizer/tokenizer.h"

namespace {

using nightshift::TokenId;
using namespace nightshift::tokenizer;
using Json = nlohmann::ordered_json;

class Session {
 public:
  Json open(const std::string& dir, const std::string& choice) {
    tokenizer_.reset();
    template_.reset();
    if (std::filesystem::exists(dir + "/tokenizer.json")) tokenizer_ = Tokenizer::load(dir);
    template_ = ChatTemplate::load(dir, choice, 1700000000);
    return true;
  }

  Json answer(const Json& in) {
    if (in.contains("open")) return open(in["open"], in.value("template", "auto"));
    if (in.contains("encode")) {
      return tokenizer_.value().encode(in["encode"].get_ref<const std::string&>(),
                                       in.value("special", false));
    }
    if (in.contains("encode_bytes")) {  // numbers, because JSON strings cannot hold what is not UTF-8
      const auto bytes = in["encode_bytes"].get<std::vector<std::uint8_t>>();
      return tokenizer_.value().encode(std::string(bytes.begin(), bytes.end()), in.value("special", false));
    }
    if (in.contains("decode")) {
      return tokenizer_.value().decode(in["decode"].get<std::vector<TokenId>>(), in.value("skip", false));
    }
    if (in.contains("stream")) return stream(in);
    if (in.contains("chat"))
      return template_.value().render(in["chat"].dump(), in.value("extra", Json::object()).dump());
    return time(in.at("time"));
  }

 private:
  Json stream(const Json& in) {
    StreamDecoder decoder(tokenizer_.value(), in.value("skip", false));
    Json pieces = Json::array();
    for (const TokenId id : in["stream"]) pieces.push_back(decoder.push(id));
    pieces.push_back(decoder.finish());
    return pieces;
  }

  // Documents are separated by form feeds, so that the other side can cut the same file.
  Json time(const std::string& file) {
    std::ostringstream text;
    text << std::ifstream(file, std::ios::binary).rdbuf();
    std::vector<std::string> documents;
    std::istringstream in(text.str());
    for (std::string line; std::getline(in, line, '\f');) documents.push_back(line);
    const std::clock_t begin = std::clock();  // processor time: other programs on the machine do not count
    std::size_t ids = 0;
    for (const auto& document : documents) ids += tokenizer_.value().encode(document, false).size();
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    return {{"ids", ids}, {"seconds", seconds}};
  }

  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
};

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  Session session;
  try {
    if (argc > 1) session.open(argv[1], "auto");
  } catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 2;
  }
  for (std::string line; std::getline(std::cin, line);) {
    Json out;
    try {
      out = session.answer(Json::parse(line));
    } catch (const std::exception& e) {
      out = {{"error", e.what()}};
    }
    std::cout << out.dump() << '\n';
    if (std::cin.rdbuf()->in_avail() == 0) std::cout.flush();
  }
}
