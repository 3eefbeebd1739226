"""The weights of each text model of the family in both layouts, up to LMDeploy's native modules."""

from dataclasses import replace

import pytest
import torch
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.engine.turbomind.runtime import load_runtime
from internvl_server.errors import StartupError
from internvl_server.planner.memory import Deployment, make_plan, valid_tps
from internvl_server.settings import ModelSettings, TurbomindSettings
from lmdeploy.turbomind.builders.linear import _build_linear
from lmdeploy.turbomind.weight_format import AWQFormat
from safetensors.torch import load_file, save_file

from scripts.make_random_checkpoint import SHAPES, awq_tensors, write_checkpoint
from tests.lmdeploy.checkpoints import change
from tests.lmdeploy.weights import load_weights

SIX_B = "with the vision encoder of 6B"
FAMILIES = ("tiny", "tiny-qwen3", "tiny-qwen3-moe", "tiny-internlm2", "tiny-internlm3", SIX_B)
LAYOUTS = ("hf", "authors")


def shape_of(family, *, is_awq):
    """AWQ wants widths of whole groups of 128. The heads of InternViT-6B are no multiple of any tp."""
    shape = SHAPES["tiny" if family == SIX_B else family]
    if family == SIX_B:
        shape = replace(shape, is_6b_style=True, vision_heads=3)
    if not is_awq:
        return shape
    head_dim = 128 if shape.head_dim else 0
    return replace(shape, is_awq=True, hidden=256, mlp=256, head_dim=head_dim)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    made = {}

    def write(family, layout, *, is_awq=False):
        key = family, layout, is_awq
        if key not in made:
            folder = tmp_path_factory.mktemp("weights") / layout
            dtype = "float16" if is_awq else "bfloat16"
            write_checkpoint(folder, shape_of(family, is_awq=is_awq), layout=layout, dtype=dtype)
            made[key] = load_checkpoint(ModelSettings(path=str(folder)))
        return made[key]

    return write


def load(checkpoint, tp=1):
    runtime = load_runtime(checkpoint, TurbomindSettings(tp=tp), max_num_seqs=2, max_model_len=2048)
    return runtime._turbomind


@pytest.mark.parametrize("is_awq", [False, True], ids=["16 bits", "awq"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_loaded_and_the_plan_counts_every_byte(
    loop, written, family, layout, is_awq
):
    checkpoint = written(family, layout, is_awq=is_awq)
    tps = valid_tps(checkpoint.config, 4)
    assert {1, 2} <= set(tps)
    for tp in tps:
        gpus, unread = load_weights(load(checkpoint, tp), checkpoint.path, tp)
        plan = make_plan(checkpoint.config, Deployment(tp=tp), 80 << 30)
        assert unread == set()
        assert {gpu.num_bytes for gpu in gpus} == {plan.weight_bytes}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_give_each_gpu_the_same(loop, written, family, tp):
    """The authors' order of InternLM2's queries, keys and values is another one, and so are its names.

    What modules are made with comes from the configs, which differ in their members and defaults.
    """
    found = []
    for layout in LAYOUTS:
        checkpoint = written(family, layout)
        gpus, _ = load_weights(load(checkpoint, tp), checkpoint.path, tp)
        found.append(gpus)
    for hf, authors in zip(*found, strict=True):
        assert hf.configs() == authors.configs()
        ours, theirs = hf.tensors(), authors.tensors()
        assert set(ours) == set(theirs)
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("family", ["tiny", SIX_B])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_of_the_vision_encoder_reach_turbomind(loop, written, family, layout):
    checkpoint, shape = written(family, layout), shape_of(family, is_awq=False)
    [gpu], _ = load_weights(load(checkpoint), checkpoint.path)
    made = gpu.configs()
    encoder, attention = made["vision_model."], made["vision_model.blocks.0.attention."]
    assert encoder["norm_type"].name == ("RMS_NORM" if family == SIX_B else "LAYER_NORM")
    names = (
        "depth",
        "hidden_dim",
        "image_height",
        "image_width",
        "patch_in_dim",
        "image_seq_length",
    )
    px = shape.tile_px
    sizes = shape.vision_layers, shape.vision_hidden, px, px, 3 * 14 * 14, shape.tokens_per_tile
    assert tuple(encoder[name] for name in names) == sizes
    assert (attention["head_num"], attention["causal"]) == (shape.vision_heads, False)
    assert made["vision_model.blocks.0.norm1."]["norm_eps"] == pytest.approx(1e-6)


def test_each_gpu_has_a_share_of_each_expert_and_chooses_among_all(loop, written):
    checkpoint = written("tiny-qwen3-moe", "hf")
    gpus, _ = load_weights(load(checkpoint, 2), checkpoint.path, 2)
    for gpu in gpus:
        tensors = gpu.tensors()
        layer = "text_model.layers.2.moe_ffn"
        assert tensors[f"{layer}.gate.weight"].shape == (64, 4)
        for expert in range(4):
            assert tensors[f"{layer}.experts.{expert}.w1w3.weight"].shape == (64, 2 * 128 // 2)
            assert tensors[f"{layer}.experts.{expert}.w2.weight"].shape == (128 // 2, 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_of_the_text_model_reach_turbomind(loop, written, family):
    for layout in LAYOUTS:
        text_model = load(written(family, layout)).source_model.text_model
        attention, shape = text_model._attn_cfg, shape_of(family, is_awq=False)
        assert (attention.head_dim, attention.kv_head_num) == (shape.head, shape.kv_heads)
        dynamic = 3  # of lmdeploy.turbomind.models.utils
        rope = attention.rope
        assert (rope.type, rope.factor, rope.max_position_embeddings) == (dynamic, 2.0, 2048)
        assert rope.base == 1e6
        if shape.experts:
            moe = text_model._moe_cfg
            assert (moe.expert_num, moe.experts_per_token, moe.norm_topk_prob) == (4, 2, True)


def test_the_users_overrides_come_beside_ours(loop, written):
    checkpoint = written("tiny-internlm2", "hf")
    settings = TurbomindSettings(hf_overrides={"text_config": {"rms_norm_eps": 0.5}})
    runtime = load_runtime(checkpoint, settings, max_num_seqs=2, max_model_len=2048)
    text_model = runtime._turbomind.source_model.text_model
    assert type(text_model).__name__ == "LlamaModel"
    assert text_model.cfg.rms_norm_eps == 0.5


def test_weights_that_would_be_left_out_are_refused(loop, tmp_path):
    """The versions named -Flash have a second projector and what chooses between them."""
    write_checkpoint(tmp_path, SHAPES["tiny"], layout="authors", dtype="bfloat16")
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    save_file(load_file(last) | {"mlp2.0.weight": torch.zeros(1)}, last)
    (tmp_path / "model.safetensors.index.json").unlink()
    checkpoint = load_checkpoint(ModelSettings(path=str(tmp_path)))
    with pytest.raises(StartupError, match="weights of mlp2, which TurboMind would leave out"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("InternVL3-9B", "OpenGVLab/InternVL3-9B-hf"),
        ("InternVL2_5-8B", "OpenGVLab/InternVL2_5-8B-MPO-hf"),
        ("InternVL2_5-26B", "not published"),
        ("mine", "its name ends in -hf"),
    ],
)
def test_a_tokenizer_that_is_code_is_refused_with_what_to_serve(loop, tmp_path, name, hint):
    folder = tmp_path / name
    write_checkpoint(folder, SHAPES["tiny"], layout="authors")
    code = ["tokenization_internlm2.InternLM2Tokenizer", None]
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": code})
    with pytest.raises(StartupError, match=rf"only as Python code .*{hint}"):
        load(load_checkpoint(ModelSettings(path=str(folder))))


def test_random_awq_weights_are_the_random_weights():
    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(0))
    name = "language_model.model.layers.0.mlp.up_proj"
    packed = awq_tensors({f"{name}.weight": weight})
    form = AWQFormat(block_in=128)
    stored = {key.removeprefix(name): tensor for key, tensor in packed.items()}
    assert form.accepts(stored)
    read = form.dequant(_build_linear(form, stored).tensors, torch.float32)["weight"]
    step = packed[f"{name}.scales"].float().repeat_interleave(128, dim=0)
    assert ((read - weight.t()).abs() <= 0.6 * step).all()
