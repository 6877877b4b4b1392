# SPDX-License-Identifier: Apache-2.0
"""Asks a model fresh questions of every kind and prints the share of exactly right answers.

    python3 eval_tiny.py [MODEL_DIR] [--questions 100] [--seed 271828] [--dtype float32]    needs transformers, PyTorch

Rows are the kinds of tiny_tasks.py, columns the number of earlier turns in the chat; every cell has its own
questions and chats.  Answers come from greedy generation with a KV cache, to <|end|> or 64 tokens.
"""
import argparse
import os
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_tasks import TASKS, longest_turn, messages

EARLIER = [0, 1, 2, 4, 7, 10]
BATCH, MAX_TOKENS = 50, 64


def ask(r, kind, earlier):
    """One chat that ends in a question of `kind`: (messages, right answer)."""
    candidates = r.randint(1, 20)  # chats of short turns and of long ones
    question, answer = TASKS[kind](r)
    return messages([longest_turn(r, candidates) for _ in range(earlier)], question), answer


def generate(model, tokenizer, chats):
    """Greedy answers; prompts are padded on the left, so that all answers start in one column."""
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
    with torch.inference_mode():
        out = model.generate(**batch, do_sample=False, max_new_tokens=MAX_TOKENS, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.batch_decode(out[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)


def wrong_answers(model, tokenizer, asked):
    """The (question, right answer, given answer) of all that is not answered exactly."""
    asked = sorted(asked, key=lambda x: len(str(x[0])))  # little padding
    wrong = []
    for i in range(0, len(asked), BATCH):
        chats, answers = zip(*asked[i:i + BATCH])
        for chat, answer, given in zip(chats, answers, generate(model, tokenizer, chats)):
            if given != answer:
                wrong.append((chat[-1]["content"], answer, given))
    return wrong


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model", nargs="?", default=os.path.join(here, "..", "models", "tiny-tasks"))
    args.add_argument("--questions", type=int, default=100, help="per cell of the table")
    args.add_argument("--seed", type=int, default=271828)
    args.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the arithmetic")
    args.add_argument("--show-wrong", action="store_true")
    args = args.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model).to(getattr(torch, args.dtype)).eval()
    print(f"share right in %, {args.questions} questions per cell, seed {args.seed}, {args.dtype}")
    print(f"{'earlier turns':14}" + "".join(f"{n:>7}" for n in EARLIER) + "    all", flush=True)
    total = dict.fromkeys(EARLIER, 0)
    for kind in TASKS:
        cells, shown = [], []
        for earlier in EARLIER:
            r = random.Random(f"{args.seed} {kind} {earlier}")
            wrong = wrong_answers(model, tokenizer, [ask(r, kind, earlier) for _ in range(args.questions)])
            cells.append(100 - 100 * len(wrong) / args.questions)
            total[earlier] += cells[-1] / len(TASKS)
            shown += wrong
        print(f"{kind:14}" + "".join(f"{c:7.1f}" for c in cells + [sum(cells) / len(cells)]), flush=True)
        for question, answer, given in shown if args.show_wrong else []:
            print(f"    {question}\n        right {answer}\n        given {given}")
    print(f"{'all kinds':14}" + "".join(f"{c:7.1f}" for c in list(total.values()) + [sum(total.values()) / len(total)]))


if __name__ == "__main__":
    main()
