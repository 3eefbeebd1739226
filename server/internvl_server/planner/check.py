"""Finds plans that fit, says what to change where none does, and checks settings at start-up.

The check fails with numbers and a way out before anything is downloaded or loaded.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from internvl_server.checkpoint.architecture import Architecture, read_architecture
from internvl_server.errors import StartupError
from internvl_server.planner.memory import (
    GIB,
    Deployment,
    GpuSet,
    MemoryPlan,
    make_plan,
    tp_problem,
    valid_tps,
)
from internvl_server.planner.models import awq, find_model
from internvl_server.settings import Settings

__all__ = ["advise", "best_plan", "check_fits", "check_settings", "deployment_of", "model_at"]

_BITS = {0: 16, 4: 4, 8: 8}  # engine.turbomind.quant_policy to bits of a key or value
_SHARES = (0.8, 0.7, 0.6, 0.5, 0.4)
_CONTEXTS = (16_384, 8192, 4096)
_WANTED_TOKENS = 65_536  # a cache two whole contexts of InternVL3 fit into


def check_settings(
    settings: Settings, gpu_bytes: Sequence[int], config: Mapping[str, Any] | None = None
) -> MemoryPlan | None:
    """Check settings for the turbomind engine against the GPUs at hand.

    Args:
        settings: All of them; `engine.turbomind` is looked at whatever `engine.kind` is.
        gpu_bytes: Memory of each GPU the engine may use on this machine.
        config: The checkpoint's config.json, when it is known already.

    Returns:
        The plan, or None when nothing is known of the checkpoint before it is downloaded.

    Raises:
        StartupError: It does not fit; says why, and what to change.
    """
    path = settings.model.path
    model = read_architecture(path, config) if config is not None else model_at(path)
    if model is None:
        return None
    num_nodes = settings.engine.turbomind.nnodes
    return check_fits(
        model, deployment_of(settings, model), GpuSet.of(gpu_bytes), num_nodes=num_nodes
    )


def deployment_of(settings: Settings, model: Architecture) -> Deployment:
    """The settings in the terms of a plan."""
    needs = settings.engine.turbomind
    return Deployment(
        tp=needs.tp,
        context=settings.model.max_model_len or model.text.context,
        max_num_seqs=settings.engine.max_num_seqs,
        kv_bits=_BITS[needs.quant_policy],
        cache_share=needs.cache_max_entry_count,
        max_prefill_tokens=needs.max_prefill_token_num,
    )


def check_fits(
    model: Architecture, deployment: Deployment, gpus: GpuSet, *, num_nodes: int = 1
) -> MemoryPlan:
    """The plan, when the model fits.

    Args:
        model: What is to be loaded.
        deployment: How; `tp` counts the GPUs of all nodes.
        gpus: Those of this node.
        num_nodes: Machines that share the model.

    Raises:
        StartupError: It cannot be split so, there are too few GPUs, or their memory is too small.
    """
    tp = deployment.tp
    if problem := tp_problem(model, tp):
        raise StartupError(
            f"engine.turbomind.tp is {tp}, but {model.name} cannot be split so: {problem}. "
            f"Possible are {_listed(valid_tps(model))}."
        )
    if tp % num_nodes or tp // num_nodes > gpus.count:
        raise StartupError(
            f"engine.turbomind.tp is {tp} on {num_nodes} machine(s), and this one has {gpus.count} "
            f"GPU(s). Possible here are {_listed(valid_tps(model, gpus.count * num_nodes)) or 'none'}."
        )
    plan = make_plan(model, deployment, gpus.num_bytes)
    if plan.problem:
        here = GpuSet(gpus.label, gpus.count * num_nodes, gpus.num_bytes)
        raise StartupError(
            f"{model.name} does not fit {tp} GPU(s) of {gpus.num_bytes / GIB:.1f} GiB: {plan.problem}. "
            f"Change one of: {'; '.join(advise(model, deployment, here))}."
        )
    return plan


def model_at(path: str) -> Architecture | None:
    """The sizes of a checkpoint folder, or of one of the seven models by name; None when unknown.

    Raises:
        StartupError: The folder's config.json cannot be read.
    """
    config = Path(path) / "config.json"
    if not Path(path).is_dir():
        return find_model(path)
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise StartupError("The checkpoint folder has no readable config.json.") from err
    return read_architecture(Path(path).resolve().name, content)


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def best_plan(model: Architecture, wish: Deployment, gpus: GpuSet) -> MemoryPlan | None:
    """The plan on the fewest GPUs that fits with room for a few requests, else the roomiest that fits.

    Fewest, because several servers with one GPU each answer more than one server over all of them.
    `wish.tp` is not looked at; `wish.cache_share` is the largest share tried.
    """
    fitting = [
        plan
        for tp in valid_tps(model, gpus.count)
        if (plan := _with_fitting_share(model, replace(wish, tp=tp), gpus))
    ]
    roomy = [plan for plan in fitting if plan.num_tokens >= _WANTED_TOKENS]
    return next(iter(roomy), max(fitting, key=lambda plan: plan.num_tokens, default=None))


def advise(model: Architecture, deployment: Deployment, gpus: GpuSet) -> list[str]:
    """Changes that make a deployment fit, the mildest first; what remains when none does."""
    changes = list(_changes(model, deployment, gpus)) or list(_together(model, deployment, gpus))
    return changes or [f"more or larger GPUs: no setting makes {model.name} fit on {gpus.label} GB"]


def _changes(model: Architecture, deployment: Deployment, gpus: GpuSet) -> Iterator[str]:
    """One change at a time; smaller weights and a quantized cache may come with more GPUs."""
    tps = valid_tps(model, gpus.count)
    if deployment.tp in tps:
        yield from _same_gpus(model, deployment, gpus)
    for tp in tps:
        if tp != deployment.tp and _with_fitting_share(model, replace(deployment, tp=tp), gpus):
            yield f"engine.turbomind.tp = {tp}"
            break
    if deployment.tp in tps and not model.weight_group:
        plan = best_plan(awq(model), deployment, gpus)
        if plan is not None:
            yield f"the 4-bit weights of {plan.model.name} (tp = {plan.deployment.tp})"


def _together(model: Architecture, deployment: Deployment, gpus: GpuSet) -> Iterator[str]:
    """The mildest combination of small weights, quantized cache and short context."""
    contexts = [size for size in _CONTEXTS if size < deployment.context]
    models = [model] if model.weight_group else [model, awq(model)]
    for context, bits, one in product([deployment.context, *contexts], (16, 8, 4), models):
        plan = best_plan(one, replace(deployment, kv_bits=bits, context=context), gpus)
        if plan is not None:
            yield (
                f"{one.name} with tp = {plan.deployment.tp}, a {bits}-bit KV cache and "
                f"model.max_model_len = {context}"
            )
            return


def _same_gpus(model: Architecture, deployment: Deployment, gpus: GpuSet) -> Iterator[str]:
    if plan := _with_fitting_share(model, deployment, gpus):
        yield f"engine.turbomind.cache_max_entry_count = {plan.deployment.cache_share}"
        return
    for bits in (8, 4):
        if bits < deployment.kv_bits and _with_fitting_share(
            model, replace(deployment, kv_bits=bits), gpus
        ):
            yield f"engine.turbomind.quant_policy = {bits} (KV cache in int{bits})"
            break
    for context in _CONTEXTS:
        if context < deployment.context and _with_fitting_share(
            model, replace(deployment, context=context), gpus
        ):
            yield f"model.max_model_len = {context}"
            break


def _with_fitting_share(
    model: Architecture, deployment: Deployment, gpus: GpuSet
) -> MemoryPlan | None:
    """The plan with the largest share of cache, at most the wished one, that fits."""
    wished = deployment.cache_share
    for share in (wished, *(share for share in _SHARES if share < wished)):
        plan = make_plan(model, replace(deployment, cache_share=share), gpus.num_bytes)
        if not plan.problem:
            return plan
    return None
