# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny demonstration model on from a Hugging Face directory and writes another one.

    python3 train_tiny.py FROM_DIR OUT_DIR [--minutes 120] [--layers 4]   needs PyTorch, safetensors, tokenizers

One row of a batch is one chat that is filled turn by turn with fresh questions; the loss is on every answer.
Three row lengths keep the cost down: mostly short chats, some medium, a few of 1,120 tokens.  The mix of kinds
follows the measured error rates, and `lookup`, which gradient descent finds late on its own, gets help:
follow-up questions on one table, few keys first, and for a while a loss on where its heads look (the circuit of
Olsson et al. 2022, "In-context learning and induction heads", with keys of two letters).
Matrices are updated by Muon (Jordan et al. 2024), the rest by AdamW; the written weights are their running mean.
"""
import argparse
import json
import math
import os
import random
import shutil
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tiny_tasks import TASKS, table

SHAPES = {"short": (64, 96), "medium": (24, 256), "long": (6, 1120)}  # rows, tokens
SHAPE_SHARE = [0.6, 0.22, 0.18]
LATE = 130  # answers behind this token count as those of a long chat
FETCH_LAYER, FETCH_HEADS = 1, (0, 2)  # read first and second letter of the nearest key
MATCH_LAYER, MATCH_HEADS = 2, (0, 1, 2, 3)  # look from the asked key to its value


# ---------------------------------------------------------------- model, with the names of Hugging Face's Llama
class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        hidden = c["hidden_size"]
        self.q_proj = nn.Linear(hidden, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, hidden, bias=False)

    def forward(self, x, cos, sin, want_scores):
        """x [rows, tokens, hidden] -> the same shape, and the scores [rows, heads, tokens, tokens] if wanted."""
        rows, tokens, _ = x.shape
        split = lambda y, n: y.view(rows, tokens, n, self.dim).transpose(1, 2)
        v = split(self.v_proj(x), self.kv_heads)
        q = rotate(split(self.q_proj(x), self.heads), cos, sin).to(v.dtype)
        k = rotate(split(self.k_proj(x), self.kv_heads), cos, sin).to(v.dtype)
        k, v = (y.repeat_interleave(self.heads // self.kv_heads, 1) for y in (k, v))
        scores = None
        if want_scores:
            scores = (q @ k.transpose(-1, -2)).float() * self.dim**-0.5
            scores = scores + torch.full((tokens, tokens), -30000.0).triu(1)
            out = scores.softmax(-1).to(v.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, tokens, -1)), scores


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Norm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(c["hidden_size"])), c["rms_norm_eps"]

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(c), Attention(c)
        self.post_attention_layernorm, self.mlp = Norm(c), Mlp(c)


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = Norm(c)
        inverse = c["rope_theta"] ** -(torch.arange(0, c["head_dim"], 2) / c["head_dim"])
        angles = torch.arange(c["max_position_embeddings"])[:, None] * inverse
        self.cos, self.sin = angles.cos(), angles.sin()

    def forward(self, ids, want_scores=False):
        """ids [rows, tokens] -> logits [rows, tokens, vocabulary] and the scores of every layer."""
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        x, kept = self.model.embed_tokens(ids), []
        for layer in self.model.layers:
            out, scores = layer.self_attn(layer.input_layernorm(x), cos, sin, want_scores)
            x = x + out
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            kept.append(scores)
        return self.model.norm(x) @ self.model.embed_tokens.weight.T, kept


def load_grown(directory, layers):
    """The model of `directory` with layers added behind the first, each an identity at the start."""
    config = json.load(open(os.path.join(directory, "config.json")))
    model = Llama(config)
    model.load_state_dict({k: v.float() for k, v in load_file(os.path.join(directory, "model.safetensors")).items()})
    for _ in range(layers - config["num_hidden_layers"]):
        layer = Layer(config)
        for p in layer.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
        model.model.layers.insert(1, layer)
    config["num_hidden_layers"] = len(model.model.layers)
    return model, config


def save(directory, source, config, names, weights):
    """Writes a Hugging Face directory under a temporary name and moves it into place."""
    new = directory + ".new"
    os.makedirs(new, exist_ok=True)
    tensors = {n: w.detach().bfloat16().contiguous() for n, w in zip(names, weights)}
    save_file(tensors, os.path.join(new, "model.safetensors"), metadata={"format": "pt"})
    os.chmod(os.path.join(new, "model.safetensors"), 0o644)  # the writer keeps it to its owner
    with open(os.path.join(new, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(os.path.join(source, name), os.path.join(new, name))
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(new, directory)


# ---------------------------------------------------------------- data
class Chats:
    """Batches of chats; the mix of kinds follows what is still answered wrongly."""

    def __init__(self, tokenizer, seed):
        self.random, self.tokenizer = random.Random(seed), tokenizer
        ids = (tokenizer.token_to_id(t) for t in ("<|begin|>", "<|user|>", "<|assistant|>", "<|end|>"))
        self.begin, self.user, self.assistant, self.end = ids
        self.error = {kind: [0.2, 0.2] for kind in TASKS}  # running error rates, early and late in a chat
        self.keys, self.keys_right = 3, 0.0  # how many keys most lookups have by now, and the share right

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def turn(self, question, answer):
        return [self.user, *self.encode(question), self.end, self.assistant], [*self.encode(answer), self.end]

    def plain(self):
        """Turns of all kinds, hard kinds more often."""
        hard = {kind: max(e) ** 0.7 for kind, e in self.error.items()}
        weights = [0.06 + 0.52 * h / sum(hard.values()) for h in hard.values()]
        while True:
            kind = self.random.choices(list(TASKS), weights)[0]
            few_keys = kind == "lookup" and self.random.random() < 0.7
            yield kind, *self.turn(*TASKS[kind](self.random, (8 - self.keys) / 6 if few_keys else 0.0))

    def follow_ups(self, most):
        """One table and question after question about it: many lookups for few tokens."""
        r = self.random
        keys, values, given = table(r, min(most, r.randint(2, self.keys if r.random() < 0.8 else 8)))
        while True:
            i = r.randrange(len(keys))
            yield "follow-up", *self.turn(f"{given} What is {keys[i]}?".lstrip(), str(values[i]))
            given = ""

    def batch(self, rows, tokens):
        """ids [rows, tokens + 1], loss weights [rows, tokens] and the answers (row, first, last + 1, kind)."""
        ids, weights, answers = np.full((rows, tokens + 1), self.end), np.zeros((rows, tokens), np.float32), []
        follow_up_share = 0.1 if max(self.error["lookup"]) < 0.05 else 0.5
        for row in range(rows):
            ids[row, 0], at = self.begin, 1
            follow_up = tokens < 1000 and self.random.random() < follow_up_share
            for kind, question, answer in self.follow_ups(tokens // 19) if follow_up else self.plain():
                start, end = at + len(question), at + len(question) + len(answer)
                if end > tokens + 1:
                    break
                ids[row, at:end] = question + answer
                weights[row, start - 1 : end - 1] = len(answer) ** -0.5  # long answers must not drown short ones
                answers.append((row, start - 1, end - 1, kind))
                at = end
        return ids, weights, answers

    def look(self, ids):
        """Where lookup heads should look, [3, rows, tokens], -1 for anywhere."""
        name = self.tokenizer.id_to_token
        return np.stack([where_to_look([name(int(t)) for t in row]) for row in ids], 1)[:, :, :-1]

    def learn(self, answers, ids, predicted):
        """Updates the error rates from the argmax of a training batch: it is exact greedy match on fresh questions."""
        wrong = np.pad(np.cumsum(predicted != ids[:, 1:], 1), ((0, 0), (1, 0)))
        for row, first, end, kind in answers:
            right = float(wrong[row, end] == wrong[row, first])
            if kind in self.error:
                errors, late = self.error[kind], first > LATE
                errors[late] += 0.01 * (1 - right - errors[late])
            if kind == "lookup":
                self.keys_right += 0.01 * (right - self.keys_right)
        if self.keys < 8 and self.keys_right > 0.8:
            self.keys, self.keys_right = self.keys + 1, 0.5


def where_to_look(names):
    """For the tokens of a chat [tokens]: on value and answer tokens of a lookup, the places of the own key's two
    letters (rows 0 and 1); on answer tokens, the place of the value in the table (row 2); else -1."""
    look, value_at = np.full((3, len(names)), -1), {}

    def key_before(at):  # two tokens, or one where the vocabulary happens to have it, such as " is"
        whole = len(names[at - 1]) == 3
        return at - (1 if whole else 2), at - 1

    for i, name in enumerate(names):
        asked = name == "<|assistant|>" and names[i - 2] == "?"
        if name != "=" and not asked:
            continue
        first, second = key_before(i - 2 if asked else i)
        digits = 0
        while names[i + 1 + digits].isdigit():
            digits += 1
        start = i if asked else i + 1  # an answer token is predicted one place before it stands
        look[0, start : start + digits + 1], look[1, start : start + digits + 1] = first, second
        if asked:
            look[2, start : start + digits + 1] = value_at[tuple(names[first : second + 1])] + np.arange(digits + 1)
        else:
            value_at[tuple(names[first : second + 1])] = i + 1
    return look


# ---------------------------------------------------------------- training
def answer_loss(model, ids, weights):
    """Loss on the answers, and the most likely tokens [rows, tokens]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = model(ids[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (loss * weights.flatten()).sum() / weights.sum(), logits.detach().argmax(-1)


def answer_and_look_loss(model, ids, weights, look):
    """The same, and how far the lookup heads look past their targets."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, scores = model(ids[:, :-1], want_scores=True)
    loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    heads = [(FETCH_LAYER, head, look[n]) for n, head in enumerate(FETCH_HEADS)]
    heads += [(MATCH_LAYER, head, look[2]) for head in MATCH_HEADS]
    missed = [F.cross_entropy(scores[layer][:, head].flatten(0, 1), place.flatten(), ignore_index=-1)
              for layer, head, place in heads]
    aside = sum(missed[:2]) / len(FETCH_HEADS) + sum(missed[2:]) / len(MATCH_HEADS)
    return (loss * weights.flatten()).sum() / weights.sum(), logits.detach().argmax(-1), aside


class Muon:
    """Momentum made orthogonal by five Newton-Schulz steps, matrices of one shape together."""

    def __init__(self, matrices):
        self.groups = {}
        for w in matrices:
            self.groups.setdefault(tuple(sorted(w.shape)), []).append(w)
        self.momentum = {shape: torch.zeros(len(ws), *shape) for shape, ws in self.groups.items()}

    @torch.no_grad()
    def step(self, rate, decay=0.01):
        for shape, ws in self.groups.items():
            wide = lambda m: m if m.shape[0] <= m.shape[1] else m.T
            gradient = torch.stack([wide(w.grad) for w in ws])
            self.momentum[shape].lerp_(gradient, 0.05)
            x = gradient.lerp(self.momentum[shape], 0.95)
            x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
            for _ in range(5):
                a = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
            update = x.float() * (0.2 * math.sqrt(max(shape)))  # the size of an AdamW step
            for w, u in zip(ws, update):
                w.mul_(1 - rate * decay).sub_(u if w.shape[0] <= w.shape[1] else u.T, alpha=rate)


def report(minutes, step, tokens, loss, chats):
    right = "  ".join(f"{k} {100 - 100 * a:.1f}/{100 - 100 * b:.1f}" for k, (a, b) in chats.error.items())
    print(f"{minutes:.1f} min  step {step}  {tokens / 1e6:.2f}M tokens  loss {loss:.4f}  keys {chats.keys}  {right}",
          flush=True)


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model, config = load_grown(args.from_dir, args.layers)
    chats = Chats(Tokenizer.from_file(os.path.join(args.from_dir, "tokenizer.json")), args.seed)
    names, weights = zip(*model.named_parameters())
    is_matrix = [w.dim() == 2 and "embed" not in n for n, w in zip(names, weights)]
    muon = Muon([w for w, m in zip(weights, is_matrix) if m])
    adam = torch.optim.AdamW([w for w, m in zip(weights, is_matrix) if not m], betas=(0.9, 0.97), weight_decay=0.0)
    mean = [w.detach().clone() for w in weights]
    plain, guided = torch.compile(answer_loss, dynamic=False), torch.compile(answer_and_look_loss, dynamic=False)
    look_weight, step, tokens, done = 0.5, 0, 0, 0.0
    began = reported = time.time()
    while done < 1:
        shape = chats.random.choices(list(SHAPES), SHAPE_SHARE)[0]
        ids, loss_weights, answers = chats.batch(*SHAPES[shape])
        batch = torch.from_numpy(ids), torch.from_numpy(loss_weights)
        if shape == "short" and look_weight > 0.01:
            loss, predicted, aside = guided(model, *batch, torch.from_numpy(chats.look(ids)))
            total = loss + look_weight * aside
        else:
            loss, predicted = plain(model, *batch)
            total = loss
        model.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        rate = args.rate * min(1, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        adam.param_groups[0]["lr"] = rate
        adam.step()
        muon.step(rate)
        torch._foreach_lerp_(mean, [w.detach() for w in weights], 1 - min(0.998, (1 + step) / (10 + step)))
        chats.learn(answers, ids, predicted.numpy())
        if max(chats.error["lookup"]) < 0.1:
            look_weight *= 0.998  # the circuit is there: let the heads go
        step, tokens, done = step + 1, tokens + ids.size, (time.time() - began) / (60 * args.minutes)
        if time.time() - reported > 60 or done >= 1:
            reported = time.time()
            report(done * args.minutes, step, tokens, loss.item(), chats)
            save(args.out_dir, args.from_dir, config, names, mean)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("from_dir")
    args.add_argument("out_dir")
    args.add_argument("--minutes", type=float, default=120)
    args.add_argument("--layers", type=int, default=4)
    args.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    args.add_argument("--seed", type=int, default=20261121)
    args.add_argument("--threads", type=int, default=2)
    train(args.parse_args())


if __name__ == "__main__":
    main()
