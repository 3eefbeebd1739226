"""Memory of each GPU: exact parts against sums over tensors, rules of splitting, what fits."""

from dataclasses import replace

import pytest
from internvl_server.errors import StartupError
from internvl_server.planner.check import best_plan, check_fits, suggest_changes
from internvl_server.planner.gpus import GIB, GpuMemory, GpuSet, parse_gpus
from internvl_server.planner.memory import (
    Deployment,
    make_plan,
    tiles_at_once,
    tp_problem,
    valid_tps,
)
from internvl_server.planner.models import MODELS, awq, find_model
from internvl_server.planner.parameters import (
    num_parameters,
    text_layer_matrices,
    vision_layer_attention,
)

GB = 10**9


def model(name: str):
    found = find_model(name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1B", [1, 2]),  # 14 heads, 2 key-value heads
        ("1B-AWQ", [1]),  # 7 groups of 128
        ("2B", [1, 2, 4]),
        ("8B", [1, 2, 4]),  # 7 divides the heads, 4 key-value heads cannot be repeated to 7
        ("9B", [1, 2, 4, 8, 16]),
        ("14B", [1, 2, 4, 8]),
        ("38B", [1, 2, 4, 8]),  # 25 heads of the vision tower stay whole
        ("78B", [1, 2, 4, 8, 16]),
        ("2.5-8B", [1, 2, 4, 8, 16]),
        ("3.5-8B", [1, 2, 4, 8, 16]),
        ("3.5-30B-A3B", [1, 2, 4, 8, 16]),  # an expert of 768 is padded where it must be
    ],
)
def test_which_tp_is_possible(name: str, expected: list[int]) -> None:
    assert valid_tps(model(name), 16) == expected


@pytest.mark.parametrize(
    ("name", "tp", "reason"),
    [
        ("1B", 4, "14 heads"),
        ("1B", 7, "2 key-value heads"),
        ("1B", 14, "4096"),
        ("1B-AWQ", 2, "7 groups"),
        ("8B", 8, "28 heads"),
    ],
)
def test_why_a_tp_is_impossible(name: str, tp: int, reason: str) -> None:
    assert reason in tp_problem(model(name), tp)


@pytest.mark.parametrize("name", MODELS)
def test_one_gpu_holds_every_weight(name: str) -> None:
    plan = make_plan(MODELS[name], Deployment(), 80 * GB)
    assert plan.weight_bytes == 2 * num_parameters(MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_more_gpus_hold_a_share_and_what_is_kept_whole(name: str) -> None:
    one = MODELS[name]
    whole = make_plan(one, Deployment(), 80 * GB).weight_bytes
    for tp in valid_tps(one)[1:]:
        part = make_plan(one, Deployment(tp=tp), 80 * GB).weight_bytes
        assert whole / tp <= part < whole
        vision_attention = 2 * one.vision.num_hidden_layers * vision_layer_attention(one.vision)
        is_vision_whole = one.vision.num_attention_heads % tp != 0
        assert part - whole / tp < 0.02 * whole + (vision_attention if is_vision_whole else 0)


def test_awq_weights_are_a_quarter_of_the_matrices() -> None:
    one = MODELS["InternVL3-14B"]
    matrices = one.text.num_hidden_layers * text_layer_matrices(one.text)
    saved = 2 * matrices - matrices * (4 + 32 / 128) / 8
    plan, small = (make_plan(m, Deployment(), 80 * GB) for m in (one, awq(one)))
    assert plan.weight_bytes - small.weight_bytes == pytest.approx(saved)


@pytest.mark.parametrize(
    ("name", "tp", "bits", "expected"),
    [
        ("1B", 1, 16, 24 * 2 * 2 * 64 * 2),
        ("8B", 1, 16, 28 * 2 * 4 * 128 * 2),
        ("8B", 4, 16, 28 * 2 * 1 * 128 * 2),
        ("2B", 4, 16, 28 * 2 * 1 * 128 * 2),  # 2 key-value heads, each on two GPUs
        ("78B", 8, 16, 80 * 2 * 1 * 128 * 2),
        ("3.5-8B", 1, 16, 36 * 2 * 8 * 128 * 2),
        ("3.5-1B", 1, 16, 28 * 2 * 8 * 128 * 2),  # its heads are twice as wide as its hidden state
        ("3.5-30B-A3B", 8, 16, 48 * 2 * 1 * 128 * 2),
        ("8B", 1, 8, 28 * 2 * 4 * (128 + 4)),
        ("8B", 1, 4, 28 * 2 * 4 * (64 + 4)),
    ],
)
def test_keys_and_values_of_a_token(name: str, tp: int, bits: int, expected: int) -> None:
    plan = make_plan(model(name), Deployment(tp=tp, kv_bits=bits), 80 * GB)
    assert plan.kv_bytes_per_token == expected


def test_the_cache_is_a_share_of_what_is_free() -> None:
    plan = make_plan(model("2B"), Deployment(cache_share=0.5, max_num_seqs=1000), 24 * GB)
    assert plan.cache_bytes == (24 * GB - plan.weight_bytes - plan.overhead_bytes) // 2
    assert plan.num_tokens % 64 == 0
    assert 0 <= plan.cache_bytes - plan.num_tokens * plan.kv_bytes_per_token < 64 * 28_672
    assert plan.num_requests(4096) == plan.num_tokens // 4096
    assert make_plan(model("2B"), Deployment(max_num_seqs=3), 24 * GB).num_requests(4096) == 3


@pytest.mark.parametrize(
    ("name", "gpu_gb", "change", "problem"),
    [
        ("14B", 24, {}, "exceed"),
        ("8B", 24, {}, "working memory"),
        ("9B", 24, {"cache_share": 0.2}, "tokens"),
        ("8B", 24, {"cache_share": 0.5, "max_prefill_tokens": 2048}, ""),
    ],
)
def test_what_does_not_fit_says_why(name: str, gpu_gb: int, change: dict, problem: str) -> None:
    plan = make_plan(model(name), replace(Deployment(), **change), gpu_gb * GB)
    assert problem in plan.problem
    assert bool(plan.problem) == bool(problem)


@pytest.mark.parametrize(
    ("name", "change", "num_tiles"),
    [
        ("8B", {"max_image_tiles": 13}, 56),  # 32 whole ones, and 12 more of an image at each end
        ("8B", {}, 112),
        ("8B", {"max_prefill_tokens": 2048}, 88),
        ("38B", {"tp": 2}, 12),  # what the buffer holds through which two GPUs exchange data
        ("38B", {"tp": 2, "max_prefill_tokens": 512}, 0),
    ],
)
def test_tiles_that_the_vision_tower_computes_at_once(
    name: str, change: dict, num_tiles: int
) -> None:
    assert tiles_at_once(model(name), replace(Deployment(), **change)) == num_tiles


def test_working_memory_counts_tiles_and_sampling() -> None:
    """A position of a tile takes 16 bytes a channel, a logit 24."""
    few, many = (
        make_plan(model("38B-AWQ"), Deployment(max_image_tiles=n), 80 * GB).working_bytes
        for n in (1, 14)
    )
    assert many - few == pytest.approx(1.15 * 26 * 1025 * 3200 * 16, rel=1e-6)
    one, two = (
        make_plan(model("1B"), Deployment(max_num_seqs=n), 80 * GB).working_bytes
        for n in (100, 200)
    )
    assert two - one > 100 * 151_674 * 24


def test_working_memory_counts_the_experts_that_a_token_passes() -> None:
    """Of 128 experts it passes 8, whose outputs are kept until they are added."""
    one = model("3.5-30B-A3B")
    text = one.text.model_copy(update={"num_experts_per_tok": 4})
    plans = (
        make_plan(each, Deployment(max_num_seqs=8), 80 * GB)
        for each in (one, one.model_copy(update={"text": text}))
    )
    all_of_them, half = (plan.working_bytes for plan in plans)
    assert all_of_them - half == pytest.approx(1.15 * 8200 * 4 * (3 * 768 + 2048) * 2, rel=1e-6)


def test_quantized_experts_divide_in_whole_groups() -> None:
    """768 are 6 groups, of which 4 GPUs hold 2 each."""
    one = awq(model("3.5-30B-A3B"))
    wide = one.text.model_copy(update={"moe_intermediate_size": 1024})
    narrow_bytes, wide_bytes = (
        make_plan(each, Deployment(tp=4), 80 * GB).weight_bytes
        for each in (one, one.model_copy(update={"text": wide}))
    )
    assert narrow_bytes == wide_bytes


def test_gpus_that_cannot_exchange_a_tile_are_refused() -> None:
    """TurboMind ends the process at the first image."""
    small = Deployment(tp=2, max_prefill_tokens=512, max_num_seqs=8)
    gpus = GpuSet.of([GpuMemory(80 * GB, 80 * GB)] * 2)
    with pytest.raises(StartupError, match=r"max_prefill_token_num is 512\. Raise it"):
        check_fits(model("38B"), small, gpus)


def test_the_fewest_gpus_are_chosen() -> None:
    for name, gpus, tp in (("8B", "8x80", 1), ("38B", "8x80", 2), ("78B", "8x80", 4)):
        plan = best_plan(model(name), Deployment(), parse_gpus(gpus)[0])
        assert plan is not None
        assert plan.deployment.tp == tp
    assert best_plan(model("78B"), Deployment(), parse_gpus("2x80")[0]) is None


@pytest.mark.parametrize(
    ("name", "gpus", "change"),
    [
        ("8B", "1x24", "cache_max_entry_count = 0."),
        ("1B", "1x6", "engine.max_num_seqs = 16 and engine.turbomind.cache_max_entry_count"),
        ("2B", "1x8", "media.shared_tiles = 13 and engine.turbomind.cache_max_entry_count"),
        ("14B", "1x24", "InternVL3-14B-AWQ (tp = 1)"),
        ("14B", "2x24", "engine.turbomind.tp = 2"),
        ("14B-AWQ", "1x20", "quant_policy = 8"),
        ("38B", "2x24", "InternVL3-38B-AWQ with tp = 2"),
        ("78B", "1x24", "more or larger GPUs"),
    ],
)
def test_advice(name: str, gpus: str, change: str) -> None:
    assert any(
        change in one for one in suggest_changes(model(name), Deployment(), parse_gpus(gpus)[0])
    )


def test_the_check_passes_and_gives_the_plan() -> None:
    plan = check_fits(model("2B"), Deployment(), GpuSet.of([GpuMemory(24 * GB, 24 * GB)] * 2))
    assert plan.num_tokens > 500_000


def test_the_check_counts_the_smallest_gpu() -> None:
    with pytest.raises(StartupError, match=r"does not fit 2 GPU\(s\) of 22\.4 GiB"):
        check_fits(
            model("38B"),
            Deployment(tp=2),
            GpuSet.of([GpuMemory(size * GB, size * GB) for size in (80, 24)]),
        )


@pytest.mark.parametrize(
    ("name", "tp", "gpus", "message"),
    [
        ("1B", 4, [80 * GB] * 4, r"14 heads do not divide by 4\. Possible are 1, 2\."),
        ("8B", 4, [80 * GB] * 2, r"this machine has 2 GPU\(s\)\. Possible here are 1, 2\."),
        ("8B", 1, [], r"this machine has 0 GPU\(s\)\. Possible here are none\."),
        (
            "14B",
            1,
            [24 * GB],
            r"Change one of: the 4-bit weights of InternVL3-14B-AWQ \(tp = 1\)\.",
        ),
    ],
)
def test_the_check_fails_with_a_way_out(name: str, tp: int, gpus: list[int], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        check_fits(
            model(name), Deployment(tp=tp), GpuSet.of([GpuMemory(size, size) for size in gpus])
        )


def test_weights_that_cannot_be_served_are_not_suggested() -> None:
    """The 4-bit checkpoint of the 9B has a tokenizer that is code."""
    changes = suggest_changes(model("9B"), Deployment(), GpuSet("1x16", 1, 16 * GB))
    assert "AWQ" not in " ".join(changes)


def test_memory_that_others_use_does_not_count() -> None:
    gpus = GpuSet.of([GpuMemory(24 * GIB, 24 * GIB), GpuMemory(24 * GIB, 3 * GIB)])
    with pytest.raises(StartupError, match=r"of 24\.0 GiB, of which 3\.0 GiB are free: weights"):
        check_fits(model("8B"), Deployment(tp=2), gpus)


@pytest.mark.parametrize("text", ["80", "x80", "0x80", "2x", "2x80;1x24", "two x 80", "-1x80"])
def test_gpus_are_written_count_x_gb(text: str) -> None:
    with pytest.raises(ValueError, match="COUNTxGB"):
        parse_gpus(text)
