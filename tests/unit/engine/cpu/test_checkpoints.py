"""Which checkpoints the CPU engine takes, and what it says of the others."""

import dataclasses
import json

import pytest
import torch
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.engine.cpu.model import weights
from internvl_server.engine.cpu.model.linear import Int8Linear, PackedLinear
from internvl_server.engine.cpu.model.support import check_supported
from internvl_server.engine.cpu.model.weights import load_model
from internvl_server.errors import StartupError
from internvl_server.settings import ModelSettings
from safetensors.torch import load_file, save_file

from scripts.make_random_checkpoint import SHAPES, write_checkpoint


@pytest.fixture(params=["hf", "authors"])
def folder(request, tmp_path):
    write_checkpoint(tmp_path, SHAPES["tiny"], layout=request.param, dtype="float16")
    return tmp_path


@pytest.fixture
def authors_folder(tmp_path):
    write_checkpoint(tmp_path, SHAPES["tiny"], layout="authors", dtype="float32")
    return tmp_path


def load(folder, *, max_model_len=64, dtype=torch.float32, is_int8=False):
    checkpoint = load_checkpoint(ModelSettings(path=str(folder)))
    check_supported(checkpoint.config, max_model_len=max_model_len)
    return load_model(checkpoint, dtype, max_model_len=max_model_len, is_int8=is_int8)


def tensors_of(model):
    """Every tensor of the model, those in oneDNN's order too, by its name."""
    tensors = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear | Int8Linear):
            tensors[f"{name}.weight"] = module.weight
    return tensors


def edit_config(folder, section=None, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config[section] if section else config).update(changes)
    path.write_text(json.dumps(config))


def edit_shard(folder, name, change):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = load_file(folder / index[name])
    change(tensors)
    save_file(tensors, folder / index[name])


def test_weights_are_cast_to_the_asked_type(folder):
    for dtype in (torch.float32, torch.bfloat16):
        model = load(folder, dtype=dtype)
        tensors = tensors_of(model)
        assert {"vision.layers.0.fc1.weight", "decoder.embed.weight"} < tensors.keys()
        assert {tensor.dtype for tensor in tensors.values()} == {dtype}
        assert not any(tensor.requires_grad for tensor in tensors.values())


def test_int8_rounds_the_matrices_of_the_text_model(folder):
    model = load(folder, is_int8=True)
    types = {type(m) for m in model.decoder.modules() if hasattr(m, "bias")}
    assert types == {Int8Linear}
    assert isinstance(model.vision.layers[0].fc1, PackedLinear)
    assert model.num_parameters == load(folder).num_parameters
    assert tensors_of(model)["decoder.layers.0.qkv.weight"].dtype == torch.int8


def test_int8_is_refused_where_it_cannot_be_computed(folder, monkeypatch):
    monkeypatch.setattr(weights, "can_compute_int8", lambda: False)
    with pytest.raises(StartupError, match="quantization is int8"):
        load(folder, is_int8=True)


def test_pytorch_computes_what_cannot_be_packed(folder, monkeypatch):
    packed = load(folder).decoder.layers[0].qkv
    monkeypatch.setattr(weights, "can_pack", lambda dtype: False)
    model = load(folder)
    assert isinstance(model.decoder.layers[0].qkv, torch.nn.Linear)
    x = torch.ones(3, 64)
    torch.testing.assert_close(model.decoder.layers[0].qkv(x), packed(x))
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_one_file_without_an_index_is_read(folder):
    expected = tensors_of(load(folder))
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file(tensors, folder / "model.safetensors")
    found = tensors_of(load(folder))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        dense = [t.to_dense() if t.is_mkldnn else t for t in (found[name], tensor)]
        torch.testing.assert_close(*dense)


def test_a_missing_tensor_is_named(authors_folder):
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    edit_shard(authors_folder, name, lambda tensors: tensors.pop(name))
    with pytest.raises(StartupError, match=rf"lacks 1 tensors .*{name}"):
        load(authors_folder)


def test_a_wrong_shape_is_named(authors_folder):
    name = "mlp1.1.weight"

    def cut(tensors):
        tensors[name] = tensors[name][:, :-1].contiguous()

    edit_shard(authors_folder, name, cut)
    with pytest.raises(StartupError, match=r"mlp1\.1\.weight has the shape \[\(64, 191\)\]"):
        load(authors_folder)


def test_unused_tensors_are_logged(authors_folder, caplog):
    edit_shard(authors_folder, "mlp1.1.weight", lambda t: t.update(extra=torch.zeros(1)))
    load(authors_folder)
    assert "extra" in caplog.text


def test_a_missing_shard_is_named(folder):
    (folder / "model-00003.safetensors").unlink()
    with pytest.raises(StartupError, match=r"lacks model-00003\.safetensors"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{broken}", b"\xff" * 100])
def test_a_broken_file_is_refused(folder, content):
    (folder / "model-00003.safetensors").write_bytes(content)
    with pytest.raises(StartupError, match="cannot be read"):
        load(folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 1}'])
def test_a_broken_index_is_refused(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(StartupError, match="not a weight index"):
        load(folder)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("llm_config", {"architectures": ["InternLM3ForCausalLM"]}, "internlm3.*Qwen2"),
        ("llm_config", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'"),
        ("llm_config", {"hidden_act": "gelu"}, "hidden_act"),
        ("llm_config", {"num_hidden_layers": "many"}, "num_hidden_layers"),
        ("llm_config", {"use_sliding_window": True}, "use_sliding_window"),
        ("vision_config", {"norm_type": "batch_norm"}, "norm_type"),
        ("vision_config", {"image_size": 112}, "tiles of 56 px"),
        (None, {"ps_version": "v1"}, "ps_version"),
        (None, {"downsample_ratio": 0.25}, "downsample_ratio"),
        (None, {"select_layer": -9}, "vision layer -9"),
        (None, {"quantization_config": {"quant_method": "awq"}}, "quantization is 'awq'"),
        ("llm_config", {"head_dim": 8}, r"q_proj.weight.*has the shape.*requires \(64, 64\)"),
        ("llm_config", {"architectures": ["Qwen3MoeForCausalLM"]}, "qwen3_moe.*without experts"),
        ("llm_config", {"architectures": ["Qwen3ForCausalLM"]}, r"attn\.k_norm"),
        (
            "llm_config",
            {"architectures": ["Qwen3ForCausalLM"], "attention_bias": True},
            "attention_bias is True",
        ),
        ("vision_config", {"image_size": [448, 224]}, r"image_size is \[448, 224\]"),
        ("llm_config", {"vocab_size": None}, "TextConfig has no vocab_size"),
        (None, {"vision_config": []}, "no section 'vision_config'"),
        (None, {"architectures": ["LlavaForConditionalGeneration"]}, "Llava"),
    ],
)
def test_what_it_does_not_compute_is_refused_by_name(authors_folder, section, changes, message):
    edit_config(authors_folder, section, **changes)
    with pytest.raises(StartupError, match=message):
        load(authors_folder)


def test_a_context_longer_than_trained_is_refused(authors_folder):
    with pytest.raises(StartupError, match="2048"):
        load(authors_folder, max_model_len=2049)


def test_an_earlier_vision_layer_can_be_selected(authors_folder):
    edit_config(authors_folder, select_layer=-2)
    assert len(load(authors_folder).vision.layers) == 1


def test_rope_parameters_of_transformers_5_are_read(tmp_path):
    write_checkpoint(tmp_path, SHAPES["tiny"], layout="hf")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["text_config"]["rope_theta"], config["text_config"]["rope_scaling"]
    config["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(ModelSettings(path=str(tmp_path)))
    assert checkpoint.config.text.rope_theta == 5e5


def test_tied_embeddings_are_shared(tmp_path):
    shape = dataclasses.replace(SHAPES["tiny"], is_tied=True)
    write_checkpoint(tmp_path, shape, layout="authors")
    decoder = load(tmp_path).decoder
    assert decoder.head.weight is decoder.embed.weight
    x = torch.ones(2, 64)
    rounded = load(tmp_path, is_int8=True).decoder
    torch.testing.assert_close(rounded.head(x), decoder.head(x), rtol=0.05, atol=0.1)
