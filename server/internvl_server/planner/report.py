"""Prints plans: as text for a terminal, as JSON, and as the table of the documentation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.planner.check import best_plan, suggest_changes
from internvl_server.planner.gpus import GIB, GpuSet
from internvl_server.planner.memory import Deployment, MemoryPlan, make_plan, tp_problem, valid_tps
from internvl_server.planner.models import smaller
from internvl_server.planner.parameters import num_parameters

_PREFILL = Deployment().max_prefill_tokens

__all__ = ["markdown_table", "plan_facts", "render_text", "resolve_plan"]


def resolve_plan(
    model: CheckpointConfig, requested: Deployment, gpus: GpuSet, tp: int
) -> tuple[MemoryPlan | None, str]:
    """The plan for one set of GPUs, and why it does not fit.

    Args:
        model: The model to load.
        requested: How to run it; its `tp` is replaced.
        gpus: The GPUs to use.
        tp: GPUs for one server; 0 chooses.

    Returns:
        The plan, None if the model cannot be split over `tp` GPUs; and the problem, empty if it fits.
    """
    if tp == 0 and (best := best_plan(model, requested, gpus)) is not None:
        return best, ""
    tp = tp or max(valid_tps(model, gpus.count))
    if problem := tp_problem(model, tp):
        return None, f"tp = {tp}: {problem}"
    if tp > gpus.count:
        return None, f"tp = {tp} needs {tp} GPUs"
    plan = make_plan(model, replace(requested, tp=tp), gpus.num_bytes)
    return plan, plan.problem


def plan_facts(
    model: CheckpointConfig, requested: Deployment, gpus: GpuSet, tp: int, request_tokens: int
) -> dict[str, Any]:
    """One plan as JSON. Sizes are bytes on each GPU; the names of estimates start with "estimated"."""
    plan, problem = resolve_plan(model, requested, gpus, tp)
    facts: dict[str, Any] = {
        "model": model.name,
        "num_parameters": num_parameters(model),
        "valid_tp": valid_tps(model, max(8, gpus.count)),
        "gpus": gpus.label,
        "fits": not problem,
        "problem": problem,
        "changes": suggest_changes(
            model, replace(requested, tp=plan.deployment.tp if plan else tp), gpus
        )
        if problem
        else [],
    }
    return facts | (_sizes(plan, gpus, request_tokens) if plan is not None else {})


def _sizes(plan: MemoryPlan, gpus: GpuSet, request_tokens: int) -> dict[str, Any]:
    deployment = plan.deployment
    return {
        "tp": deployment.tp,
        "num_servers": gpus.count // deployment.tp,
        "context": deployment.context,
        "kv_bits": deployment.kv_bits,
        "cache_max_entry_count": deployment.cache_share,
        "max_prefill_token_num": deployment.max_prefill_tokens,
        "weight_bytes": plan.weight_bytes,
        "estimated_overhead_bytes": plan.overhead_bytes,
        "estimated_working_bytes": plan.working_bytes,
        "cache_bytes": plan.cache_bytes,
        "kv_bytes_per_token": plan.kv_bytes_per_token,
        "num_tokens": plan.num_tokens,
        "request_tokens": request_tokens,
        "num_requests": plan.num_requests(request_tokens),
    }


def render_text(facts: Sequence[dict[str, Any]]) -> str:
    """A table with one line per plan, followed by suggested changes for each plan that does not fit."""
    head = ("model", "GPUs", "tp", "weights", "KV/token", "overhead~", "working~", "cache",
            "tokens", "requests", "fits")  # fmt: skip
    rows = [head, *(_row(fact) for fact in facts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join([*lines, "", *_notes(facts)])


def _row(fact: dict[str, Any]) -> tuple[str, ...]:
    if "tp" not in fact:
        return (fact["model"], fact["gpus"], *["-"] * 8, "no")
    return (
        fact["model"],
        fact["gpus"],
        str(fact["tp"]),
        _gib(fact["weight_bytes"]),
        f"{fact['kv_bytes_per_token'] / 1024:.1f} KiB",
        _gib(fact["estimated_overhead_bytes"]),
        _gib(fact["estimated_working_bytes"]),
        f"{_gib(fact['cache_bytes'])} ({fact['cache_max_entry_count']:g})",
        f"{fact['num_tokens']:,}",
        str(fact["num_requests"]),
        "yes" if fact["fits"] else "no",
    )


def _notes(facts: Sequence[dict[str, Any]]) -> list[str]:
    notes = [
        "Sizes are of one GPU, in GiB; GPUs are COUNTxGB. Columns with ~ are estimates. The cache is "
        "the share in brackets",
        "(engine.turbomind.cache_max_entry_count) of what is free when the weights are loaded.",
    ]
    for name in dict.fromkeys(fact["model"] for fact in facts):
        first = next(fact for fact in facts if fact["model"] == name)
        possible = ", ".join(map(str, first["valid_tp"]))
        notes.append(f"{name}: {first['num_parameters']:,} parameters; tp may be {possible}.")
    for fact in facts:
        if fact.get("max_prefill_token_num", _PREFILL) != _PREFILL:
            notes.append(
                f"{fact['model']} on {fact['gpus']}: with engine.turbomind.max_prefill_token_num = "
                f"{fact['max_prefill_token_num']}."
            )
        if not fact["fits"]:
            notes.append(f"{fact['model']} on {fact['gpus']}: {fact['problem']}.")
            notes.append(f"  Change one of: {'; '.join(fact['changes'])}.")
    return notes


def markdown_table(
    models: Sequence[CheckpointConfig],
    requested: Deployment,
    gpus: Sequence[GpuSet],
    request_tokens: int,
) -> str:
    """A table with one row per model and one column per GPU set; 4-bit weights where 16-bit do not fit."""
    columns = [_times(one.label) + " GB" for one in gpus]
    head = ["Model", "Parameters", "16-bit weights", "`tp`", *columns]
    lines = [_line(head), _line(["---", "--:", "--:", "---", *["---"] * len(columns)])]
    for model in models:
        tps = ", ".join(map(str, valid_tps(model)))
        size = f"{make_plan(model, replace(requested, tp=1), 0).weight_bytes / GIB:.1f} GiB"
        cells = [_cell(model, requested, one, request_tokens) for one in gpus]
        lines.append(_line([model.name, f"{num_parameters(model) / 1e9:.2f} B", size, tps, *cells]))
    return "\n".join(lines)


def _cell(model: CheckpointConfig, requested: Deployment, gpus: GpuSet, request_tokens: int) -> str:
    plans = (best_plan(candidate, requested, gpus) for candidate in (model, *smaller(model)))
    plan = next(filter(None, plans), None)
    if plan is None:
        return "does not fit"
    kind = "" if plan.model is model else "AWQ, "
    servers = gpus.count // plan.deployment.tp
    many = f"{servers} servers of " if servers > 1 else ""
    tokens = f"{plan.num_tokens // 1000:,} k tokens"
    return f"{kind}{many}tp {plan.deployment.tp}: {tokens}, {plan.num_tokens // request_tokens} requests"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _times(label: str) -> str:
    return label.replace("x", "×")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
