"""`engine.cpu.dtype = auto` depends on the processor's instructions."""

import pytest
import torch
from internvl_server.engine.cpu.processor import choose_dtype
from internvl_server.settings import CpuSettings


@pytest.mark.parametrize(
    ("capabilities", "dtype", "reason"),
    [
        ({"avx512_bf16": True, "avx2": True}, torch.bfloat16, "has instructions"),
        ({"amx_bf16": True}, torch.bfloat16, "has instructions"),
        ({"neon": True, "bf16": True}, torch.bfloat16, "has instructions"),
        ({"avx2": True, "avx512_bf16": False}, torch.float32, "has no instructions"),
        ({}, torch.float32, "has no instructions"),
    ],
)
def test_auto_looks_at_the_processor(monkeypatch, caplog, capabilities, dtype, reason):
    caplog.set_level("INFO")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert choose_dtype(CpuSettings(dtype="auto")) == dtype
    assert reason in caplog.text


def test_auto_is_float32_without_the_kernels_or_the_knowledge(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True}, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert choose_dtype(CpuSettings(dtype="auto")) == torch.float32
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_dtype(CpuSettings(dtype="auto")) == torch.float32


def test_a_set_type_is_kept(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert choose_dtype(CpuSettings(dtype="bfloat16")) == torch.bfloat16
    assert choose_dtype(CpuSettings(dtype="float32")) == torch.float32
