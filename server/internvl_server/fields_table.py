"""The table of the fields of a chat request."""

from collections.abc import Mapping

from internvl_server.engine.base import Capability
from internvl_server.engine.capabilities import CAPABILITIES
from internvl_server.protocol.fields import BOOKKEEPING, EXTENSIONS, IMPLEMENTED, REFUSED

__all__ = ["fields_table"]

# Field → what it takes and does; the rest is OpenAI's.
_NOTES: Mapping[str, str] = {
    "add_generation_prompt": "`false`: the prompt ends where the messages end",
    "continue_final_message": "the answer goes on inside the last message, the assistant's",
    "frequency_penalty": "-2 to 2",
    "ignore_eos": "the model's own end does not end the answer",
    "include_stop_str_in_output": "what ended the answer is shown",
    "logit_bias": "token id → -100 to 100, up to 1024",
    "logprobs": "true text and bytes of every token",
    "max_completion_tokens": "default `limits.default_max_tokens`",
    "max_tokens": "the older name of `max_completion_tokens`",
    "messages": "roles and parts: below",
    "min_p": "0 to 1",
    "min_tokens": "no end and no stop string before so many",
    "model": "the served name",
    "n": "1 to `limits.max_choices`; pictures are prepared once",
    "parallel_tool_calls": "`false`: one call at most",
    "presence_penalty": "-2 to 2",
    "repetition_penalty": "over 0, up to 10; 1 is none",
    "response_format": "`text`, `json_object`, `json_schema` (always held to its schema)",
    "seed": "64 bit, negative too; choice i of `n` has `seed + i`",
    "service_tier": "`auto`, `default`",
    "skip_special_tokens": "`false`: special tokens are shown",
    "stop": "up to 4 strings of at most 8192 characters, matched on text, never shown in part",
    "stop_token_ids": "further tokens that end an answer, up to 1024",
    "stream": "server-sent events",
    "stream_options": "`include_usage`, `include_obfuscation`",
    "structured_outputs": "one of `json`, `json_object`, `regex`, `choice`, `grammar` (GBNF)",
    "temperature": "0 to 2, default 1; 0 is greedy",
    "tool_choice": "`none`, `auto`, `allowed_tools`; where formats are held: `required`, one function",
    "tools": "functions, up to `limits.max_tools`",
    "top_k": "0 or -1: no limit",
    "top_logprobs": "0 to 20; the chosen token is among them",
    "top_p": "0 to 1",
}

# Fields an engine must be able to honour; all others work with any engine.
_NEEDS: Mapping[str, Capability] = {
    "frequency_penalty": Capability.FREQUENCY_PENALTY,
    "logit_bias": Capability.LOGIT_BIAS,
    "logprobs": Capability.LOGPROBS,
    "min_p": Capability.MIN_P,
    "min_tokens": Capability.MIN_TOKENS,
    "presence_penalty": Capability.PRESENCE_PENALTY,
    "repetition_penalty": Capability.REPETITION_PENALTY,
    "response_format": Capability.GUIDED_DECODING,
    "seed": Capability.SEED,
    "structured_outputs": Capability.GUIDED_DECODING,
    "top_k": Capability.TOP_K,
    "top_logprobs": Capability.LOGPROBS,
}


def fields_table() -> str:
    """Every field that has a meaning, by engine, as Markdown; then what is accepted and what is refused."""
    engines = sorted(CAPABILITIES)
    rows = [
        f"| Field | Takes | {' | '.join(engines)} |",
        f"| --- | --- |{' --- |' * len(engines)}",
    ]
    rows += [_row(name, "") for name in sorted(IMPLEMENTED)]
    rows += [_row(name, "extension: ") for name in sorted(EXTENSIONS)]
    return "\n".join(
        [
            *rows,
            "",
            f"Accepted, the answer is the same without: {_names(BOOKKEEPING)}.",
            "",
            f"Refused, unless the value asks for nothing (null, `[]`, …): {_names(REFUSED)}.",
        ]
    )


def _row(name: str, prefix: str) -> str:
    need = _NEEDS.get(name)
    marks = [
        "yes" if need is None or need in CAPABILITIES[e] else "400" for e in sorted(CAPABILITIES)
    ]
    return f"| `{name}` | {prefix}{_NOTES[name]} | {' | '.join(marks)} |"


def _names(fields: frozenset[str] | Mapping[str, object]) -> str:
    return " ".join(f"`{name}`" for name in sorted(fields))
