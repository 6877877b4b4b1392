#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed corpora, tests/fuzz/corpus/<target>/seed-*. Needs h5py. Inputs that once crashed lie beside them
under other names and are not touched. Usage: make_seeds.py [CORPUS]
"""
import json
import pathlib
import struct
import sys

import h5py
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "corpus"
BORDER = "\n====\n"   # between the parts of an input, see support.h


def seed(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    (folder / f"seed-{name}").write_bytes(data)


def as_json(value):
    return json.dumps(value, ensure_ascii=False)


def job_files():
    whole = (HERE.parent.parent / "jobs/quickstart.toml").read_text()
    seed("job_file", "quickstart", whole)
    keys = """[job]
name = "all keys"
input = "in.jsonl"
output = "out.h5"
max_failed = 0.5
[model]
path = "/models/m"
dtype = "bf16"
chat_template = "t.jinja"
max_context = 4096
[parallel]
replicas = 2
sequence = "auto"
tensor = 2
shift = 512
[schedule]
token_budget = 1024
max_sequences = 8
kv_memory = "1.5GiB"
prefix_cache = false
[sampling]
max_tokens = 16
temperature = 0.7
top_p = 0.9
top_k = 40
seed = 7
stop = ["\\n\\n", "END"]
stop_token_ids = [1, 2]
ignore_eos = true
n = 2
logprobs = 3
[run]
device = "cpu"
threads = 4
numerics = "strict"
checkpoint_seconds = 1e1
trace = "t.json"
"""
    seed("job_file", "all-keys", keys + BORDER.lstrip("\n") + "sampling.max_tokens=64")
    seed("job_file", "slip", '[job]\nimput = "a"\n' + BORDER.lstrip("\n") + "run.device=cpu")
    seed("job_file", "dates", "[job]\nname = 1979-05-27T07:32:00Z\nx = [1, {a = 'b'}]\n[[run]]\n")


def prompt_files():
    import tempfile

    def case(name, write):
        with tempfile.NamedTemporaryFile(suffix=".h5") as scratch:
            with h5py.File(scratch.name, "w", libver="latest") as f:
                write(f)
            seed("hdf5_bytes", name, pathlib.Path(scratch.name).read_bytes())

    def texts(f):
        f["prompts/text"] = ["one", "größe 日本", ""]
        f["prompts/id"] = ["a", "b", "c"]
        f["params/max_tokens"] = np.array([1, -1, 3], np.int16)

    def fixed(f):
        f["prompts/text"] = np.array([b"one", b"two"], "S4")
        f["prompts/id"] = np.array([5, 6], np.uint64)

    def messages(f):
        f["prompts/messages"] = [as_json([{"role": "user", "content": "hi"}])] * 2
        f["params/json"] = [as_json({"temperature": 0.5, "tools": []}), ""]
        f["params/stop"] = ["END", '["a", "b"]']

    def tokens(f):
        f.create_dataset("prompts/tokens", data=np.arange(6, dtype=np.uint16), chunks=(4,), compression="gzip", shuffle=True)
        f["prompts/offsets"] = np.array([0, 2, 2, 6], np.int64)
        f["params/ignore_eos"] = np.array([True, False, True])

    def results(f):
        f.attrs["nightshift_format"] = "results/1"
        f.attrs["provenance"] = as_json({"finished_unix": 1700000000, "model": {"name": "m"}})
        group = f.create_group("results")
        group["id"] = np.array([0, 1], np.int64)
        group["row"] = np.array([0, 1], np.uint64)
        group["sample"] = np.array([0, 0], np.int32)
        group["text"] = ["answer", ""]
        group["error"] = ["", "too_long: 9 > 8"]
        reason = h5py.enum_dtype({"stop": 1, "length": 2, "failed": 3, "cancelled": 4}, basetype=np.uint8)
        group.create_dataset("finish_reason", data=np.array([1, 3], np.uint8), dtype=reason)
        for column in ("prompt_tokens", "output_tokens", "cached_tokens"):
            group[column] = np.array([3, 0], np.int32)
        group["tokens"] = np.array([7, 8, 9], np.int32)
        group["offsets"] = np.array([0, 3, 3], np.uint64)
        group["logprobs"] = np.array([-0.5, -1.0, np.nan], np.float32)
        group["top_tokens"] = np.array([[7, 1], [8, 2], [9, -1]], np.int32)
        group["top_logprobs"] = np.array([[-0.5, -2], [-1, -3], [-2, np.nan]], np.float32)

    for write in (texts, fixed, messages, tokens, results):
        case(write.__name__, write)


def column_programs():
    names = pathlib.Path(HERE / "fuzz_hdf5_columns.cpp").read_text().split("kNames{")[1].split("};")[0]
    index = {name: i for i, name in enumerate(part.strip(' \n"') for part in names.split(","))}
    string, int32, int64, uint64, float64, reason = 6, 1, 2, 3, 5, 7

    def column(name, store, values, shape=0):
        head = bytes([index[name], store, shape, len(values) if shape < 224 else len(values) // max(shape % 4, 1)])
        if store == string:
            return head + b"".join(bytes([len(v)]) + v.encode() for v in values)
        return head + bytes(200 if v < 0 else v for v in values)

    text = column("/prompts/text", string, ["one", "two"])
    seed("hdf5_columns", "text", b"\0" + text + column("/params/max_tokens", int64, [3, -1]) +
         column("/prompts/id", int64, [4, 5]) + column("/params/stop", string, ["END", '["a"]']))
    seed("hdf5_columns", "tokens", b"\0" + column("/prompts/tokens", int32, [1, 2, 3], 7) +
         column("/prompts/offsets", uint64, [0, 1, 3]) + column("/params/temperature", float64, [1, 0]))
    seed("hdf5_columns", "messages", b"\0" + column("/prompts/messages", string, ['[{"role":"user","content":"x"}]']) +
         column("/params/json", string, ['{"top_k":4,"tools":[1]}']) + column("/prompts/extra", string, ['{"body":{"user":"u"}}']))
    seed("hdf5_columns", "unwritten", b"\0" + column("/prompts/text", string, ["one"], 128) + bytes([6]))
    rows = b"".join(column("/results/" + name, int32, [0, 1])
                    for name in ("id", "row", "sample", "prompt_tokens", "output_tokens", "cached_tokens"))
    seed("hdf5_columns", "results", b"\1" + rows + column("/results/text", string, ["a", "b"]) +
         column("/results/error", string, ["", "e: f"]) + column("/results/finish_reason", reason, [1, 3]) +
         column("/results/tokens", int32, [5, 6]) + column("/results/offsets", uint64, [0, 2, 2]) +
         column("/results/logprobs", 4, [0, 1]) + column("/results/top_tokens", int32, [1, 2, 3, 4], 226) +
         column("/results/top_logprobs", 4, [1, 2, 3, 4], 226))


def batch_lines():
    def line(i, url, **body):
        return as_json({"custom_id": f"id-{i}", "method": "POST", "url": url, "body": body}) + "\n"

    chat, text = "/v1/chat/completions", "/v1/completions"
    say = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "größe"}]}]
    seed("jsonl", "chat", line(1, chat, model="m", messages=say, max_tokens=5, temperature=0.5) +
         line(2, chat, messages=say, tools=[{"type": "function"}], stream=False, user="u"))
    seed("jsonl", "text", "\ufeff" + line(1, text, prompt="one", stop=["a"], seed=3) + "\r\n" + line(2, text, prompt="two", n=2))
    seed("jsonl", "tokens", line(1, text, prompt=[1, 2, 3], logprobs=2) + line(2, text, prompt=[], ignore_eos=True))
    seed("jsonl", "repeated", line(1, text, prompt="one") * 2)
    seed("jsonl", "cut", line(1, text, prompt="one")[:-9])


def journals():
    def header(version=1):
        return struct.pack("<8sIIQQIIQQQ", b"NSJRNL\r\n", version, 64, 1, 2, 0, 0, 3, 0, 0)

    def record(row, sample=0, samples=1, error=b"", text=b"", tokens=(), logprobs=(), top=(), kind=1):
        body = struct.pack("<BBHiiddd", 1, 0, 1 if top else 0, 3, 0, 0.5, 1.0, 2.0)
        body += struct.pack("<5I", len(error), len(text), len(tokens), len(logprobs), len(top))
        body += error + text + struct.pack(f"<{len(tokens)}i", *tokens) + struct.pack(f"<{len(logprobs)}f", *logprobs)
        body += b"".join(struct.pack("<if", *pair) for pair in top)
        return struct.pack("<3sBIQIIQQ", b"NSR", kind, len(body), row, sample, samples, 0, 0) + body

    two = record(0, text=b"answer", tokens=(1, 2)) + record(1, error=b"too_long: 9", samples=1)
    seed("journal", "two", b"\1" + header() + two)
    seed("journal", "raw", b"\0" + header() + two)
    seed("journal", "duplicate", b"\1" + header() + two + record(0, text=b"other", tokens=(3,)))
    seed("journal", "samples", b"\1" + header() + record(5, 1, 2, tokens=(1,), logprobs=(0.5,), top=((1, 0.5),)) + record(5, 0, 2))
    seed("journal", "torn", b"\1" + header() + two + record(2, text=b"x" * 50)[:60])
    seed("journal", "version", b"\1" + header(version=9) + two)
    seed("journal", "kind-2", b"\1" + header() + two + record(2, kind=2))


CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
    "tie_word_embeddings": True, "eos_token_id": [1, 2], "hidden_act": "silu",
}


def model_configs():
    seed("model_config", "llama", as_json(CONFIG) + BORDER + as_json({"eos_token_id": 3, "temperature": 0.6, "top_p": 0.9, "top_k": 5}))
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
    seed("model_config", "llama3", as_json(CONFIG | {"rope_scaling": llama3, "rope_theta": 500000.0}))
    yarn = {"type": "yarn", "factor": 4.0, "beta_fast": 32, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}
    seed("model_config", "yarn", as_json(CONFIG | {"model_type": "qwen2", "rope_parameters": yarn | {"rope_theta": 1e6}}))
    seed("model_config", "qwen3", as_json(CONFIG | {
        "model_type": "qwen3", "head_dim": 32, "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 128}))
    seed("model_config", "wrapped", as_json({"model_type": "x", "text_config": CONFIG | {
        "model_type": "mistral", "sliding_window": None, "rope_scaling": {"type": "dynamic", "factor": 2}}}))
    seed("model_config", "quantized", as_json(CONFIG | {"quantization_config": {"quant_method": "gptq"}}))


def checkpoints():
    shapes = {
        "embed_tokens.weight": [8, 4], "norm.weight": [4], "layers.0.input_layernorm.weight": [4],
        "layers.0.post_attention_layernorm.weight": [4],
    }
    shapes |= {f"layers.0.self_attn.{p}_proj.weight": [4, 4] for p in "qkvo"}
    shapes |= {f"layers.0.mlp.{p}_proj.weight": [4, 4] for p in ("gate", "up", "down")}

    def header(shapes, total=4096):
        entries, at = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in shapes.items():
            size = 2 * int(np.prod(shape))
            entries["model." + name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
        if at < total:
            entries["model.rotary_emb.inv_freq"] = {"dtype": "U8", "shape": [total - at], "data_offsets": [at, total]}
        return as_json(entries)

    seed("safetensors", "whole", header(shapes))
    seed("safetensors", "one", header({"norm.weight": [4]}))
    seed("safetensors", "empty", as_json({"x": {"dtype": "F32", "shape": [0, 5], "data_offsets": [0, 0]}}))
    raw = header({"norm.weight": [4]}, 8).encode()
    seed("safetensors", "raw", b"\0" + struct.pack("<Q", len(raw)) + raw + b"\1" * 8)
    # "{ " marks an index, see fuzz_safetensors.cpp
    seed("safetensors", "index", "{ " + as_json({"weight_map": {"model.norm.weight": "shard-1.safetensors"}})[1:])


def tokenizers():
    def file(model, text, config=None, **parts):
        base = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
        return BORDER.join([as_json(base | parts | {"model": model}), text, as_json(config) if config else ""])

    letters = {c: i for i, c in enumerate("abcdehlorwt ")}
    spelled = {chr(c): i for i, c in enumerate([*range(33, 127), 288, 0xC3, 0xA9, 0xB6, 0x10B])} | {"he": 120, "Ġw": 121}
    bpe = {"type": "BPE", "vocab": spelled, "merges": [["h", "e"], "Ġ w"]}
    gpt = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    seed("tokenizer", "byte-level", file(bpe, "hello wörld", {"bos_token": "<s>", "eos_token": {"content": "</s>"}}, pre_tokenizer=gpt,
         decoder={"type": "ByteLevel"}, added_tokens=[{"id": 122, "content": "<s>", "special": True, "lstrip": True}]))
    llama3 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": llama3}, "behavior": "Isolated", "invert": False}
    single = [{"SpecialToken": {"id": "!", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    seed("tokenizer", "llama3", file(bpe | {"ignore_merges": True}, "he's 1234!\n", pre_tokenizer={
        "type": "Sequence", "pretokenizers": [split, gpt | {"use_regex": False}]}, decoder={"type": "ByteLevel"},
        post_processor={"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {
            "!": {"id": "!", "ids": [0], "tokens": ["!"]}}}))
    spm = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3} | {f"<0x{b:02X}>": 4 + b for b in range(0, 256, 51)}
    seed("tokenizer", "spm", file(
        {"type": "BPE", "vocab": spm, "merges": ["▁ a"], "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}, "a ab ÿ",
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                  {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}))
    plain = {"vocab": letters, "merges": []}
    seed("tokenizer", "metaspace", file(plain | {"vocab": letters | {"▁": 50}}, "he  world", pre_tokenizer={
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}, normalizer={"type": "NFKC"}))
    stages = [{"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Contiguous"},
              {"type": "WhitespaceSplit"}, {"type": "CharDelimiterSplit", "delimiter": "-"}]
    seed("tokenizer", "stages", file(plain, "he-12 lo. a", pre_tokenizer={"type": "Sequence", "pretokenizers": stages},
         normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}, {"type": "NFD"}]}))
    pcre = {"type": "Split", "pattern": {"Regex": r"(?<=\d)\p{P}|\b\d+?\b|\w|."}, "behavior": "MergedWithPrevious", "invert": True}
    seed("tokenizer", "pcre2", file(plain, "he1.lo", pre_tokenizer=pcre, normalizer={
        "type": "Replace", "pattern": {"Regex": "l+"}, "content": "t"}))


def chat_templates():
    messages = as_json([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": None,
                        "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}])
    loop = ("{{ bos_token }}{% for m in messages %}{% if loop.first and m.role == 'system' %}{% set ns = namespace(s=m['content']) %}"
            "{% elif not m.content %}{{- m.tool_calls | tojson }}{% else %}\n<|{{ m['role'] }}|> {{ m.content | trim }}{% endif %}{%- endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    seed("chat_template", "loop", BORDER.join([loop, messages, as_json({"tools": [{"type": "function"}]})]))
    macro = ("{%- macro show(x, y=2) -%}[{{ x ~ y }}]{%- endmacro -%}{{ show('a') }}{% for i in range(0, 9, 2) %}{{ i // 2 + i % 3 ** 2 }}"
             "{{ loop.index0 }}{% endfor %}{{ messages[0]['content'][::-1] | upper | replace('S', 't') }}{{ strftime_now('%d %b') }}")
    seed("chat_template", "macro", BORDER.join([macro, messages, ""]))
    seed("chat_template", "raises", "{{ raise_exception('no ' + messages[-1].role) }}")
    seed("chat_template", "continue", BORDER.join([loop, as_json([{"role": "user", "content": "go on "}]), as_json({"continue_final_message": True})]))
    seed("chat_template", "filters", "{{ {'a': [1, 2.5, none, true]} | tojson(indent=2) }}{{ [3, 1] | join(', ') }}{{ 'x' if a is defined else 'y' }}"
         "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{# note #}{% set x %}b{% endset %}{{ x.split('b') }}")


def sessions():
    count = ["prompts_done", "prompts_failed", "prompt_tokens", "cached_tokens", "output_tokens", "steps", "decode_tokens", "prefill_tokens",
             "recomputed_tokens", "preemptions", "compute_seconds", "host_seconds", "idle_seconds", "load_seconds", "model_flops",
             "hardware_flops", "memory_bytes", "peak_flops", "peak_bandwidth", "kv_blocks", "kv_blocks_high_water", "resident_bytes",
             "shifts", "weight_bytes", "host_pss_bytes", "weight_bytes_per_rank", "load_bytes", "trace_events_dropped"]
    sketch = {"buckets": [[3, 2], [900, 1]], "sum": 1.5, "max": 1.0}
    counters = {name: 1 for name in count} | {name: [1, 2] for name in ("layout_steps", "layout_tokens", "layout_seconds")}
    counters |= {name: sketch for name in ("time_to_first_token", "inter_token", "time_per_output_token", "end_to_end", "step")}
    counters["traffic"] = {"all_reduce": {"bytes": 5, "calls": 1, "seconds": 0.1}}
    run = {name: 1 for name in ("number", "seconds", "ranks", "threads", "replicas", "sequence", "tensor", "reduction_shards")}
    run |= {name: "" for name in ("started_at", "stopped_by", "shift", "calibration", "kernel_set", "transport", "numerics", "git_revision", "version")}
    run |= {"complete": False, "hosts": ["node1"], "slurm": {"SLURM_JOB_ID": "7"}, "total": counters, "per_rank": [counters]}
    status = {name: 1 for name in ("samples_total", "done", "failed", "running", "prompt_tokens", "output_tokens", "tokens_per_second",
                                   "eta_seconds", "elapsed_seconds", "ranks", "restarts", "updated_unix")}
    seed("session", "status", "status.json\n" + as_json(status | {"state": "running", "host": "node1", "note": ""}))
    seed("session", "run", "run-0001.json\n" + as_json(run))
    seed("session", "manifest", "manifest.json\n" + as_json({
        "version": 1, "input_path": "in.h5", "input_digest": "xxh3-0-1", "model_digest": "d", "sampling_digest": "e",
        "job": {"sampling": {"seed": 2, "stop": ["a"]}, "model": {"path": "m"}}}))
    seed("session", "lock", "lock\n" + as_json({"host": "node1", "pid": 1, "boot": "x"}))
    seed("session", "started", "started\n1700000000")
    seed("session", "report", "report\n" + as_json({"complete": True, "prompts": 1}) + BORDER + as_json({"runs": [run], "job": {}}))


for make in (job_files, prompt_files, column_programs, batch_lines, journals, model_configs, checkpoints, tokenizers, chat_templates, sessions):
    make()
print(f"{sum(1 for _ in CORPUS.glob('*/seed-*'))} seeds in {CORPUS}")
