# SPDX-License-Identifier: Apache-2.0
"""Writes likelihoods.json: 200 short questions of the quickstart with their right answers as tokens, and the mean negative
log-likelihood of all tokens behind the first half of the question (the digits and letters of a question are random,
so this is no small number) that transformers computes in fp32 from the same bf16 weights.

    make_likelihoods.py        needs h5py, torch, transformers
"""
import json
import pathlib

import h5py
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

here = pathlib.Path(__file__).resolve().parent
inputs = here.parents[2] / "inputs"
tokenizer = AutoTokenizer.from_pretrained(inputs / "models/tiny-tasks")
model = AutoModelForCausalLM.from_pretrained(inputs / "models/tiny-tasks", dtype=torch.float32)

rows = []
total, tokens = 0.0, 0
with h5py.File(inputs / "prompts/quickstart.h5") as file:
    for messages, answer in zip(file["prompts/messages"], file["expected/text"]):
        chat = json.loads(messages)
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        answer_ids = tokenizer.encode(answer.decode(), add_special_tokens=False) + [model.config.eos_token_id]
        if len(prompt_ids) + len(answer_ids) > 48 or len(rows) == 200:
            continue
        given = len(prompt_ids) // 2
        rows.append({"given": given, "tokens": prompt_ids + answer_ids})
        with torch.no_grad():
            logits = model(torch.tensor([prompt_ids + answer_ids])).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)
        for i in range(given, len(prompt_ids) + len(answer_ids)):
            total -= logprobs[i - 1, rows[-1]["tokens"][i]].item()
            tokens += 1
text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
(here / "likelihoods.json").write_text(f'{{"nll": {total / tokens!r}, "scored_tokens": {tokens}, "rows": [\n{text}]}}\n')
print(f"{len(rows)} rows, {tokens} scored tokens, nll {total / tokens:.6f}")
