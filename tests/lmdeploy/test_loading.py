"""Which checkpoints load, what LMDeploy is told, and what is said when it cannot load one."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.core import Regex
from internvl_server.engine.turbomind.engine import TurbomindEngine
from internvl_server.engine.turbomind.runtime import engine_config
from internvl_server.errors import StartupError
from internvl_server.settings import ModelSettings, TurbomindSettings
from lmdeploy.messages import TurbomindEngineConfig
from lmdeploy.turbomind import TurboMind
from lmdeploy.turbomind.tokenizer_info import TokenizerInfo

from tests.lmdeploy.checkpoints import change
from tests.lmdeploy.native import Plan
from tests.lmdeploy.requests import answer, make_request


def engine_of(folder):
    checkpoint = load_checkpoint(ModelSettings(path=str(folder)))
    return TurbomindEngine(checkpoint, TurbomindSettings(), max_num_seqs=2, max_model_len=2048)


@pytest.fixture
def copied(checkpoints, tmp_path):
    return lambda layout: shutil.copytree(checkpoints[layout].path, tmp_path / layout)


def test_settings_in_lmdeploys_words():
    config = engine_config(
        TurbomindSettings(
            tp=2, devices=(0, 1), dtype="float16",
            model_format="awq", quant_policy=8, cache_max_entry_count=0.5, max_prefill_token_num=99,
            num_tokens_per_iter=50, max_prefill_iters=2, cache_prompt="all", cache_generation="none",
            cache_prompt_boundary_skip=3, gemm_input_dtype="float16", report_cached_tokens=False,
            hf_overrides={"a": {"b": 1}},
        ),
        max_num_seqs=7,
        max_model_len=1234,
    )  # fmt: skip
    told = {
        "tp": 2, "devices": [0, 1], "nnodes": 1,
        "dtype": "float16", "model_format": "awq", "quant_policy": 8, "cache_max_entry_count": 0.5,
        "max_prefill_token_num": 99, "max_batch_size": 7, "session_len": 1234,
        "enable_prefix_caching": True, "communicator": "nccl", "num_tokens_per_iter": 50,
        "max_prefill_iters": 2, "cache_prompt": "all", "cache_generation": "none",
        "cache_prompt_boundary_skip": 3, "gemm_input_dtype": "float16", "enable_metrics": False,
        "hf_overrides": {"a": {"b": 1}},
    }  # fmt: skip
    assert {name: getattr(config, name) for name in told} == told
    plain = engine_config(TurbomindSettings(), max_num_seqs=1, max_model_len=1)
    empty = plain.devices, plain.model_format, plain.gemm_input_dtype, plain.hf_overrides
    assert empty == (None, None, None, None)
    # Apart from the prefix cache, what is not set is as LMDeploy has it.
    theirs = TurbomindEngineConfig(max_batch_size=1, session_len=1, enable_prefix_caching=True)
    assert plain == theirs


async def test_tensor_parallel_is_what_was_asked_for(make_engine, loop):
    engine = await make_engine(tp=2, devices=(1, 3))
    config = engine._runtime._turbomind.engine_config
    assert (config.attn_tp_size, config.mlp_tp_size, config.devices) == (2, 2, [1, 3])


async def test_what_lmdeploy_cannot_load_is_a_startup_error(loop, copied):
    folder = copied("authors")
    change(folder / "config.json", ps_version="v1")
    engine = engine_of(folder)
    with pytest.raises(
        StartupError, match=r"LMDeploy cannot load the checkpoint: ValueError: .*ps_version"
    ):
        await engine.start()
    assert not engine.health().is_ready


async def test_remote_code_is_never_trusted(make_engine, loop):
    told = []
    original = TurboMind.__init__

    def init(self, *args, **options):
        told.append(options["trust_remote_code"])
        original(self, *args, **options)

    with mock.patch.object(TurboMind, "__init__", init):
        await make_engine("authors")
    assert told == [False]


IMPORT = """
from PIL import Image, ImageFile
from internvl_server.engine.turbomind.engine import _keep_pillow_limits
before = Image.MAX_IMAGE_PIXELS
with _keep_pillow_limits():
    import internvl_server.engine.turbomind.runtime
    assert ImageFile.LOAD_TRUNCATED_IMAGES, "LMDeploy no longer sets it: the guard can go"
assert not ImageFile.LOAD_TRUNCATED_IMAGES
assert Image.MAX_IMAGE_PIXELS == before
"""


def test_importing_lmdeploy_leaves_pillow_as_it_was():
    subprocess.run([sys.executable, "-c", IMPORT], check=True)


async def test_start_bounds_torchs_threads_and_reads_the_vocabulary_for_constraints(make_engine):
    """Up to 32 threads convert pixels; to read InternVL3's vocabulary takes a second."""
    torch.set_num_threads(2)
    engine = await make_engine()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(torch.get_num_threads).result() == 1
    with mock.patch.object(TokenizerInfo, "from_huggingface", side_effect=AssertionError):
        assert await answer(engine, make_request(constraint=Regex("a+")))


async def test_a_context_beyond_the_trained_one_reaches_turbomind_with_its_scaling(
    loop, checkpoints
):
    """TurboMind scales positions (dynamic NTK) by the factor, beyond the trained length."""
    path = checkpoints["hf"].path
    checkpoint = load_checkpoint(ModelSettings(path=str(path), max_model_len=4096))
    engine = TurbomindEngine(
        checkpoint, TurbomindSettings(), max_num_seqs=1, max_model_len=checkpoint.max_model_len
    )
    await engine.start()
    assert engine._runtime._turbomind.session_len == 4096
    rope = engine._runtime._turbomind.source_model.text_model._attn_cfg.rope
    dynamic = 3  # of lmdeploy.turbomind.models.utils
    assert (rope.type, rope.factor, rope.max_position_embeddings) == (dynamic, 2.0, 2048)
    await engine.close()


async def test_cached_tokens_can_be_hidden(make_engine, loop):
    loop.plan = lambda call: Plan([65, 66], num_cached=2)
    for is_shown in (True, False):
        engine = await make_engine(report_cached_tokens=is_shown)
        async with engine.generate(make_request()) as deltas:
            found = [delta.num_cached_tokens async for delta in deltas]
        assert found[-1] == (2 if is_shown else 0)


async def test_weights_may_have_the_names_of_newer_transformers(make_engine, checkpoints):
    """A model that was trained further may be saved so; LMDeploy would find no text model."""
    index = json.loads((checkpoints["hf"].path / "model.safetensors.index.json").read_text())
    old = list(index["weight_map"])
    text, head = "language_model.model.", "language_model.lm_head."
    new = [
        name.replace(text, "model.language_model.").replace(head, "lm_head.")
        if name.startswith("language_model.")
        else f"model.{name}"
        for name in old
    ]
    engine = await make_engine("hf")
    (mapping,) = engine._runtime._turbomind.source_model._loader_mappings
    assert list(map(mapping, new)) == list(map(mapping, old))
    assert {name.split(".")[0] for name in map(mapping, old)} == {"language_model", "model"}
