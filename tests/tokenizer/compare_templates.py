#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares rendered chat templates with transformers' apply_chat_template, conversation by conversation.

    python compare_templates.py --tool build/.../tokenizer_tool MODEL_DIR [MODEL_DIR ...]

A model directory needs only tokenizer_config.json or chat_template.jinja. "Only by us": messages that hold nothing, which
are refused for every template. "Only by HF": Jinja raises where a template joins text to a field that is missing or no
text (a tool parameter without a description, content in parts for a template that knows only strings), minja joins them. Exit code 1 if two texts differ. Needs: pip install tokenizers transformers jinja2.
"""
import argparse
import datetime
import json
import pathlib
import sys

from transformers.utils import chat_template_utils

from compare_hf import Tool

NOW = datetime.datetime.fromtimestamp(1_700_000_000, datetime.timezone.utc)  # what tokenizer_tool tells templates


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def user(content="What is 2 + 2?"):
    return {"role": "user", "content": content}


def assistant(content="4", **more):
    return {"role": "assistant", "content": content, **more}


def system(content="Be brief."):
    return {"role": "system", "content": content}


ARGUMENTS = {"city": "Zürich", "days": 3, "unit": None, "deep": {"list": [1, 2.5, True, "<b>&'\""], "empty": {}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "where"},
                "days": {"type": "integer", "default": 1},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city"],
        },
    },
}


def call(arguments, call_id="call_1"):
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def tool_answer(content='{"sky": "blue"}'):
    return {"role": "tool", "content": content, "name": "weather", "tool_call_id": "call_1"}


CONVERSATIONS = [
    [user()],
    [system(), user()],
    [user(), assistant(), user("And 3 + 3?")],
    [system(), user(), assistant(), user("And 3 + 3?"), assistant("6"), user("Bye")],
    [user("")],
    [system(""), user("")],
    [user("  leading and trailing \n\n")],
    [user("Grüße 你好 🙂 e\u0301 \u2028 <|im_end|> {{ 1 }} {% x %} & < > \" ' \\ \\n")],
    [assistant("I begin."), user()],
    [user(), user("again")],
    [user(), system("late")],
    [system(), system("twice"), user()],
    [user(), assistant("a"), assistant("b"), user()],
    [{"role": "user"}],
    [{"content": "no role"}],
    [{"role": "user", "content": None}],
    [{"role": "developer", "content": "Answer in rhyme."}, user()],
    [{"role": "unknown", "content": "x"}, user()],
    [],
    [user([{"type": "text", "text": "part one"}, {"type": "text", "text": " and two"}])],
    [user(), assistant("<think>\nadd them\n</think>\n\n4"), user("sure?")],
    [user(), assistant("4", reasoning_content="add them"), user("sure?")],
    [user(), assistant("4", thinking="add them"), user("sure?"), assistant("yes", reasoning_content="said so")],
    [user("weather?"), assistant("", tool_calls=[call(ARGUMENTS)]), tool_answer()],
    [user("weather?"), assistant("Let me see.", tool_calls=[call(json.dumps(ARGUMENTS))]), tool_answer(), assistant("Blue."), user("ta")],
    [system(), user("weather?"), assistant(None, tool_calls=[call(ARGUMENTS), call({}, "call_2")]), tool_answer(), tool_answer("grey")],
    [user("x"), assistant("y", tool_calls=[])],
    [user(str(i)) if i % 2 == 0 else assistant(str(i)) for i in range(41)],
]
EXTRAS = [
    {},
    {"add_generation_prompt": False},
    {"enable_thinking": False},
    {"enable_thinking": True, "add_generation_prompt": False},
    {"tools": [TOOL]},
    {"tools": [TOOL, TOOL], "enable_thinking": False},
    {"tools": []},
    {"continue_final_message": True},
    {"reasoning_effort": "high", "date_string": "1 May 2031", "model_identity": "You are a test."},
    {"documents": [{"title": "t", "text": "d"}]},
    {"custom_instructions": "Be kind.", "xml_tools": ["<t/>"], "python_tools": ["def f(): pass"]},
    {"builtin_tools": ["browser", "python"]},
]


def special_tokens(config):
    texts = {k: v["content"] if isinstance(v, dict) else v for k, v in config.items() if k.endswith("_token")}
    return {k: v for k, v in texts.items() if isinstance(v, str)}


def reference(template, config, conversation, extra):
    arguments = special_tokens(config) | {"add_generation_prompt": not extra.get("continue_final_message")} | extra
    texts, _ = chat_template_utils.render_jinja_template(conversations=[conversation], chat_template=template, **arguments)
    return texts[0]


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:  # any refusal counts, whatever its class
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--show", type=int, default=5)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    chat_template_utils.datetime = FixedClock
    total_differ = 0
    print(f"{'template':20}{'cases':>8}{'equal':>8}{'refused':>9}{'only by us':>12}{'only by HF':>12}{'differ':>8}")
    for model in args.models:
        config_file, file = model / "tokenizer_config.json", model / "chat_template.jinja"
        config = json.loads(config_file.read_text()) if config_file.exists() else {}
        template = file.read_text() if file.exists() else config.get("chat_template")
        if template is None:
            print(f"{model.name:20} has no chat template")
            continue
        cases = [(c, e) for c in CONVERSATIONS for e in EXTRAS]
        tool = Tool(args.tool, str(model))
        ours = tool.ask([{"chat": c, "extra": e} for c, e in cases])
        tool.close()
        equal = refused = stricter = laxer = differ = 0
        for (conversation, extra), our in zip(cases, ours):
            their = attempt(reference, template, config, conversation, extra)
            if isinstance(our, dict) and isinstance(their, dict):
                refused += 1
            elif our == their:
                equal += 1
            else:
                stricter += isinstance(our, dict)
                laxer += isinstance(their, dict)
                differ += not isinstance(our, dict) and not isinstance(their, dict)
                if stricter + laxer + differ <= args.show:
                    print(f"  {model.name} {json.dumps(conversation)[:300]} {json.dumps(extra)[:80]}")
                    print(f"    ours   {our!r:.700}\n    theirs {their!r:.700}")
        total_differ += differ
        print(f"{model.name:20}{len(cases):>8}{equal:>8}{refused:>9}{stricter:>12}{laxer:>12}{differ:>8}", flush=True)
    sys.exit(1 if total_differ else 0)


if __name__ == "__main__":
    main()
