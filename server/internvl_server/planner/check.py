"""Finds plans that fit, suggests changes where none does, and checks settings at start-up.

The check fails before anything is downloaded or loaded, with the numbers and what to change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from internvl_server.checkpoint.config import CheckpointConfig
from internvl_server.checkpoint.files import read_config
from internvl_server.errors import StartupError
from internvl_server.planner.gpus import GpuMemory, GpuSet
from internvl_server.planner.memory import (
    Deployment,
    MemoryPlan,
    make_plan,
    tiles_at_once,
    tp_problem,
    valid_tps,
)
from internvl_server.planner.models import find_model, smaller
from internvl_server.planner.support import check_quantization, check_text_model
from internvl_server.settings import Settings

__all__ = [
    "best_plan",
    "check_fits",
    "check_settings",
    "deployment_of",
    "fitting_plan",
    "model_at",
    "suggest_changes",
]

_BITS = {0: 16, 4: 4, 8: 8}  # engine.turbomind.quant_policy to bits of a key or value
_SHARES = (0.8, 0.7, 0.6, 0.5, 0.4)
_CONTEXTS = (16_384, 8192, 4096)
_MOST_IMAGE_TILES = 41  # 40, the largest `max_tiles` of a request, and the thumbnail
_FEW_TILES = 13  # an image in high detail and its thumbnail
_FEW_REQUESTS = 16
_SMALL_PREFILL = 2048
_ENOUGH_TOKENS = 65_536  # a cache for two whole contexts of InternVL3


def check_settings(
    settings: Settings, gpus: Sequence[GpuMemory], config: CheckpointConfig | None = None
) -> MemoryPlan | None:
    """Check the settings of the turbomind engine against the GPUs of this machine.

    Args:
        settings: All settings; `engine.turbomind` counts whatever `engine.kind` is.
        gpus: Memory of each GPU that the engine uses on this machine.
        config: The checkpoint's config if it has been read already.

    Returns:
        The plan; None if the checkpoint's sizes are unknown until it is downloaded.

    Raises:
        StartupError: The model does not fit, or TurboMind lacks its text model; the message says why and
            what to change.
    """
    model = config or model_at(settings.model.path)
    if model is None:
        return None
    check_text_model(model)
    check_quantization(model)
    return check_fits(model, deployment_of(settings, model), GpuSet.of(gpus))


def deployment_of(settings: Settings, model: CheckpointConfig) -> Deployment:
    """Convert the settings to the terms of a plan."""
    turbomind = settings.engine.turbomind
    return Deployment(
        tp=turbomind.tp,
        context=settings.model.max_model_len or model.text.max_position_embeddings,
        max_num_seqs=settings.engine.max_num_seqs,
        kv_bits=_BITS[turbomind.quant_policy],
        cache_share=turbomind.cache_max_entry_count,
        max_prefill_tokens=turbomind.max_prefill_token_num,
        max_image_tiles=min(_MOST_IMAGE_TILES, _request_tiles(settings)),
    )


def _request_tiles(settings: Settings) -> int:
    return max(1, min(settings.media.shared_tiles, settings.media.max_tiles_per_request))


def check_fits(model: CheckpointConfig, deployment: Deployment, gpus: GpuSet) -> MemoryPlan:
    """Make the plan for a model that must fit.

    Args:
        model: The model to load.
        deployment: How to run it.
        gpus: The GPUs of this machine.

    Raises:
        StartupError: The model cannot be split this way, or there are too few or too small GPUs.
    """
    tp = deployment.tp
    if problem := tp_problem(model, tp):
        raise StartupError(
            f"engine.turbomind.tp is {tp}, but {model.name} cannot be split that way: {problem}. "
            f"Possible are {_listed(valid_tps(model))}."
        )
    if tp > gpus.count:
        raise StartupError(
            f"engine.turbomind.tp is {tp}, and this machine has {gpus.count} GPU(s). Possible here are "
            f"{_listed(valid_tps(model, gpus.count)) or 'none'}."
        )
    if not tiles_at_once(model, deployment):
        raise StartupError(
            f"engine.turbomind.max_prefill_token_num is {deployment.max_prefill_tokens}. Raise it: the GPUs "
            f"exchange image tiles through a buffer of this many tokens, which holds no tile of {model.name}."
        )
    plan = make_plan(model, deployment, gpus.num_bytes)
    if plan.problem:
        raise StartupError(
            f"{model.name} does not fit {tp} GPU(s) of {gpus}: {plan.problem}. "
            f"Change one of: {'; '.join(suggest_changes(model, deployment, gpus))}."
        )
    return plan


def model_at(path: str) -> CheckpointConfig | None:
    """The config of a checkpoint folder, or of a published model by its name; None for an unknown name.

    Raises:
        StartupError: The folder's config.json cannot be read, or its quantization is not supported.
    """
    if not Path(path).is_dir():
        return find_model(path)
    model = read_config(Path(path), Path(path).resolve().name)
    check_quantization(model)
    return model


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def best_plan(model: CheckpointConfig, requested: Deployment, gpus: GpuSet) -> MemoryPlan | None:
    """The plan with the fewest GPUs whose cache is large enough, or else the plan with the largest cache.

    Several servers with one GPU each have a higher throughput than one server over all of them.

    Args:
        model: The model to load.
        requested: How to run it; `tp` is ignored, `cache_share` and `max_prefill_tokens` are the
            largest ones tried.
        gpus: The GPUs of this machine.

    Returns:
        None if no plan fits.
    """
    fitting = [
        plan
        for tp in valid_tps(model, gpus.count)
        if (plan := fitting_plan(model, replace(requested, tp=tp), gpus))
    ]
    roomy = [plan for plan in fitting if plan.num_tokens >= _ENOUGH_TOKENS]
    return next(iter(roomy), max(fitting, key=lambda plan: plan.num_tokens, default=None))


def suggest_changes(model: CheckpointConfig, deployment: Deployment, gpus: GpuSet) -> list[str]:
    """Changes that make a deployment fit, the smallest first; never empty."""
    changes = list(_single_changes(model, deployment, gpus)) or list(
        _combined_change(model, deployment, gpus)
    )
    return changes or [f"more or larger GPUs: no setting makes {model.name} fit on {gpus.label} GB"]


def _single_changes(model: CheckpointConfig, deployment: Deployment, gpus: GpuSet) -> Iterator[str]:
    """Changes that suffice alone; smaller weights may come with another number of GPUs."""
    tps = valid_tps(model, gpus.count)
    if deployment.tp in tps:
        yield from _same_gpus(model, deployment, gpus)
    for tp in tps:
        if tp != deployment.tp and fitting_plan(model, replace(deployment, tp=tp), gpus):
            yield f"engine.turbomind.tp = {tp}"
            break
    for candidate in smaller(model) if deployment.tp in tps else ():
        plan = best_plan(candidate, deployment, gpus)
        if plan is not None:
            yield f"the 4-bit weights of {candidate.name} (tp = {plan.deployment.tp})"


def _combined_change(
    model: CheckpointConfig, deployment: Deployment, gpus: GpuSet
) -> Iterator[str]:
    """The smallest combination of smaller weights, a quantized cache and a shorter context."""
    contexts = [size for size in _CONTEXTS if size < deployment.context]
    models = [model, *smaller(model)]
    for context, bits, candidate in product([deployment.context, *contexts], (16, 8, 4), models):
        plan = best_plan(candidate, replace(deployment, kv_bits=bits, context=context), gpus)
        if plan is not None:
            yield (
                f"{candidate.name} with tp = {plan.deployment.tp}, a {bits}-bit KV cache and "
                f"model.max_model_len = {context}"
            )
            return


def _same_gpus(model: CheckpointConfig, deployment: Deployment, gpus: GpuSet) -> Iterator[str]:
    """A smaller cache, or else less at once, a quantized cache and a shorter context."""
    few_tiles = min(_FEW_TILES, deployment.max_image_tiles)
    few_requests = min(_FEW_REQUESTS, deployment.max_num_seqs)
    for tiles, requests in product(
        (deployment.max_image_tiles, few_tiles), (deployment.max_num_seqs, few_requests)
    ):
        changed = replace(deployment, max_image_tiles=tiles, max_num_seqs=requests)
        if plan := fitting_plan(model, changed, gpus):
            yield " and ".join(_differences(plan.deployment, deployment))
            if changed == deployment:
                return
            break
    for bits in (8, 4):
        if bits < deployment.kv_bits and fitting_plan(
            model, replace(deployment, kv_bits=bits), gpus
        ):
            yield f"engine.turbomind.quant_policy = {bits} (KV cache in int{bits})"
            break
    for context in _CONTEXTS:
        if context < deployment.context and fitting_plan(
            model, replace(deployment, context=context), gpus
        ):
            yield f"model.max_model_len = {context}"
            break


def _differences(new: Deployment, old: Deployment) -> Iterator[str]:
    if new.max_image_tiles != old.max_image_tiles:
        yield f"media.shared_tiles = {new.max_image_tiles}"
    if new.max_num_seqs != old.max_num_seqs:
        yield f"engine.max_num_seqs = {new.max_num_seqs}"
    if new.cache_share != old.cache_share:
        yield f"engine.turbomind.cache_max_entry_count = {new.cache_share}"
    if new.max_prefill_tokens != old.max_prefill_tokens:
        yield f"engine.turbomind.max_prefill_token_num = {new.max_prefill_tokens}"


def fitting_plan(
    model: CheckpointConfig, deployment: Deployment, gpus: GpuSet
) -> MemoryPlan | None:
    """The plan with the largest cache that fits, with smaller prefill steps if it must be.

    The share of the cache is at most the one that the deployment asks for.
    """
    requested, tokens = deployment.cache_share, deployment.max_prefill_tokens
    shares = (requested, *(share for share in _SHARES if share < requested))
    for prefill, share in product({tokens: 0, min(tokens, _SMALL_PREFILL): 0}, shares):
        changed = replace(deployment, max_prefill_tokens=prefill, cache_share=share)
        if tiles_at_once(model, changed):
            plan = make_plan(model, changed, gpus.num_bytes)
            if not plan.problem:
                return plan
    return None
