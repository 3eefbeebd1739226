"""The `plan` command: its options and its output."""

import argparse
import json

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.planner.check import model_at
from internvl_server.planner.gpus import parse_gpus
from internvl_server.planner.memory import Deployment
from internvl_server.planner.models import MODELS, why_unserved
from internvl_server.planner.report import markdown_table, plan_facts, render_text
from internvl_server.settings.options import at_least

__all__ = ["add_plan_options", "plan_text"]

_GPUS = "1x24,1x80,2x80,8x80"
_KV_BITS = {"none": 16, "int8": 8, "int4": 4}
_REQUEST_TOKENS = 4096  # 3,328 for an image of 12 tiles and thumbnail, 768 for text and answer


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `plan`."""
    parser.add_argument(
        "--model",
        help="checkpoint folder, hub name, or a size such as 8B, 8B-AWQ or 3.5-8B; default: all models",
    )
    parser.add_argument("--gpus", default=_GPUS, help="COUNTxGB, more with commas (%(default)s)")
    parser.add_argument(
        "--tp", type=at_least(1), default=0, help="GPUs of one server; default: the fewest"
    )
    parser.add_argument(
        "--context", type=at_least(1), default=0, help="tokens of the longest request"
    )
    parser.add_argument("--kv", choices=_KV_BITS, default="none", help="KV cache quantization")
    parser.add_argument(
        "--cache",
        type=_share,
        default=0.8,
        help="cache_max_entry_count, between 0 and 1 (%(default)s)",
    )
    parser.add_argument(
        "--max-num-seqs", type=at_least(1), default=256, help="requests at once (%(default)s)"
    )
    parser.add_argument(
        "--request-tokens",
        type=at_least(1),
        default=_REQUEST_TOKENS,
        help="tokens of a usual request, including images and answer (%(default)s)",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    output.add_argument("--markdown", action="store_true", help="print a Markdown table")


def plan_text(options: argparse.Namespace) -> str:
    """The output of `plan`.

    Raises:
        ValueError: The model or the GPUs are unknown, or the context is too long.
        StartupError: The folder of the model cannot be read.
    """
    models = _models(options.model)
    gpus = parse_gpus(options.gpus)
    if options.markdown:
        return markdown_table(models, _requested(options, models[0]), gpus, options.request_tokens)
    facts = [
        plan_facts(model, _requested(options, model), one, options.tp, options.request_tokens)
        for model in models
        for one in gpus
    ]
    return json.dumps(facts, indent=2) if options.json else render_text(facts)


def _models(name: str | None) -> list[CheckpointConfig]:
    if name is None:
        return list(MODELS.values())
    model = model_at(name)
    if model is None:
        raise ValueError(
            why_unserved(name)
            or f"--model: {name!r} is neither a folder nor one of {', '.join(MODELS)} (or -hf; or -AWQ, "
            "except of InternVL2_5-1B, InternVL2_5-2B and InternVL3_5)."
        )
    return [model]


def _requested(options: argparse.Namespace, model: CheckpointConfig) -> Deployment:
    if options.context > model.text.max_context:
        raise ValueError(
            f"--context: {model.name} supports at most {model.text.max_context:,} tokens."
        )
    return Deployment(
        context=options.context or model.text.max_position_embeddings,
        max_num_seqs=options.max_num_seqs,
        kv_bits=_KV_BITS[options.kv],
        cache_share=options.cache,
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("it must be between 0 and 1")
    return value
