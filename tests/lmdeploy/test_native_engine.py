"""What TurboMind is created with: LMDeploy's own way from our settings to the native engine."""

from contextlib import nullcontext

import pytest
import torch
from internvl_server.engine.turbomind.runtime import load_runtime
from internvl_server.settings import TurbomindSettings
from lmdeploy.turbomind import TurboMind, _turbomind
from lmdeploy.turbomind.model_loader import ModelLoader

from tests.lmdeploy.weights import Device

INIT = TurboMind.__init__  # before a stand-in takes its place

SETTINGS = TurbomindSettings(
    tp=2, devices=(1, 3), dtype="float16", quant_policy=8, cache_max_entry_count=0.5,
    max_prefill_token_num=99, num_tokens_per_iter=50, max_prefill_iters=2, cache_prompt="all",
    cache_generation="none", cache_prompt_boundary_skip=3, report_cached_tokens=False,
    enable_prefix_caching=False, communicator="cuda-ipc",
)  # fmt: skip
TOLD = {
    "attn_tp_size": 2, "mlp_tp_size": 2, "devices": [1, 3], "nnodes": 1, "outer_dp_size": 1, "ep_size": 1,
    "attn_dp_size": 1, "attn_cp_size": 1, "data_type": _turbomind.DataType.TYPE_FP16,
    "quant_policy": 8, "cache_max_block_count": 0.5, "max_prefill_token_num": 99,
    "num_tokens_per_iter": 50, "max_prefill_iters": 2, "cache_prompt": "all",
    "cache_generation": "none", "cache_prompt_boundary_skip": 3, "enable_metrics": False,
    "enable_prefix_caching": False, "communicator": "cuda-ipc", "max_batch_size": 7,
    "session_len": 1234,
}  # fmt: skip


class Native(Device):
    """The native engine, which remembers what is done with it, and for which GPU."""

    def __init__(self, config):
        super().__init__(len(config.devices))
        self.config, self.steps = config, []

    def is_dummy_node(self):
        return False

    def create_request(self):
        return object()

    def __getattr__(self, name):
        if name not in ("create_context", "create_root", "process_weight", "create_engine"):
            raise AttributeError(name)
        return lambda gpu: self.steps.append((name, gpu))


@pytest.fixture
def load(loop, checkpoints, monkeypatch):
    """Loads a checkpoint by LMDeploy's own code, apart from the weights."""

    def create(model_dir, engine_config):
        return Native(engine_config)

    def export(self):
        self.model_comm.steps.append(("export", None))

    monkeypatch.setattr(_turbomind.TurboMind, "create", create)
    monkeypatch.setattr(ModelLoader, "export", export)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())

    def load(layout, settings=SETTINGS, *, is_real=True):
        limits = {"max_num_seqs": 7, "max_model_len": 1234}
        with pytest.MonkeyPatch.context() as patches:  # undone before the stand-in is taken away
            if is_real:
                patches.setattr(TurboMind, "__init__", INIT)
            return load_runtime(checkpoints[layout], settings, **limits)._turbomind

    return load


@pytest.mark.parametrize("layout", ["hf", "authors"])
def test_every_setting_reaches_the_native_engine(load, layout):
    native = load(layout).model_comm.config
    assert {name: getattr(native, name) for name in TOLD} == TOLD


def test_each_gpu_takes_the_same_steps_in_order(load):
    steps = load("hf").model_comm.steps
    order = list(dict.fromkeys(name for name, _ in steps))
    assert [step for step in order if step != "create_root"] == [
        "create_context", "export", "process_weight", "create_engine",
    ]  # fmt: skip
    for name in set(order) - {"export"}:
        assert sorted(gpu for step, gpu in steps if step == name) == [0, 1]


@pytest.mark.parametrize("layout", ["hf", "authors"])
def test_the_stand_in_has_what_the_adapter_reads_of_the_real_one(load, layout):
    stand_in, real = load(layout, is_real=False), load(layout)
    for name in ("_vocab_size", "session_len", "devices", "gpu_count", "engine_config", "is_dummy"):
        assert getattr(stand_in, name) == getattr(real, name), name
    assert type(stand_in.source_model) is type(real.source_model)
    assert stand_in.source_model._vision_data_type == real.source_model._vision_data_type
    assert stand_in.create_instance().errcode_map == real.create_instance().errcode_map
