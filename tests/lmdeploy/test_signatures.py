"""Everything the adapter, and these tests, use of LMDeploy: fails by name when a version moved it."""

import importlib
import importlib.metadata
import inspect
import re

import pytest
from internvl_server.engine.turbomind.machine import SUPPORTED_VERSIONS

# module:attribute → parameters it must take, in this order ("*" ends the ones that matter).
SIGNATURES = {
    "lmdeploy.turbomind:TurboMind.from_pretrained": (
        "pretrained_model_name_or_path", "model_name", "chat_template_name", "engine_config",
        "trust_remote_code", "kwargs",
    ),
    "lmdeploy.turbomind:TurboMind.__init__": (
        "self", "model_path", "model_name", "chat_template_name", "engine_config",
        "trust_remote_code", "kwargs",
    ),
    "lmdeploy.turbomind:TurboMind.create_instance": ("self", "cuda_stream_id"),
    "lmdeploy.turbomind:TurboMind.get_schedule_metrics": ("self",),
    "lmdeploy.turbomind:TurboMind.mm_input_converter": ("self", "multimodal"),
    "lmdeploy.turbomind:TurboMind.close": ("self",),
    "lmdeploy.turbomind.turbomind:TurboMindInstance._get_generation_config": ("self", "cfg"),
    "lmdeploy.turbomind.tokenizer_info:TokenizerInfo.from_huggingface": (
        "tokenizer", "vocab_size", "stop_token_ids",
    ),
    "lmdeploy.turbomind.converter:get_tm_config": (
        "model_path", "engine_config", "group_size", "trust_remote_code",
    ),
    "lmdeploy.turbomind.models.internvl:InternVLModel.to_turbomind_multimodal": ("self", "multimodal"),
}  # fmt: skip
FIELDS = {
    "lmdeploy.messages:TurbomindEngineConfig": (
        "dtype", "model_format", "tp", "devices", "session_len", "max_batch_size",
        "cache_max_entry_count", "quant_policy", "enable_prefix_caching", "max_prefill_token_num",
        "communicator", "enable_metrics", "num_tokens_per_iter", "max_prefill_iters", "cache_prompt",
        "cache_generation", "cache_prompt_boundary_skip", "gemm_input_dtype", "hf_overrides",
    ),
    "lmdeploy.messages:GenerationConfig": (
        "max_new_tokens", "do_sample", "top_k", "top_p", "min_p", "temperature",
        "repetition_penalty", "random_seed", "stop_token_ids", "logprobs", "response_format",
        "ignore_eos", "min_new_tokens", "output_logits",
    ),
    "lmdeploy.messages:ScheduleMetrics": (
        "scheduler_tick", "active_seqs", "waiting_seqs", "cache_usage", "prefix_cache_hit_rate",
    ),
}  # fmt: skip
NATIVE = {
    "ModelRequest": ("forward", "cancel", "set_grammar"),
    "TurboMind": ("create_request", "get_schedule_metrics", "is_dummy_node"),
    "GenerationConfig": (
        "max_new_tokens", "top_k", "top_p", "min_p", "temperature", "eos_ids", "stop_ids",
        "repetition_penalty", "random_seed", "output_logprobs", "min_new_tokens", "output_logits",
    ),
    "RequestMetrics": ("cached_tokens", "enqueue_time", "scheduled_time"),
    "GrammarCompiler": ("compile_json_schema", "compile_regex", "compile_structural_tag"),
    "ScheduleMetrics": (
        "scheduler_tick", "active_seqs", "waiting_seqs", "cache_usage", "prefix_cache_hit_rate",
    ),
    "AtomicRequestState": ("consume",),
    "RequestState": ("status", "seq_len"),
    "SessionParam": ("id", "step"),
    "DataType": ("TYPE_BF16", "TYPE_FP16"),
}  # fmt: skip


def find(path):
    module, _, attributes = path.partition(":")
    try:
        found = importlib.import_module(module)
        for name in attributes.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as err:
        pytest.fail(f"LMDeploy no longer has {path}: {err}", pytrace=False)
    return found


def test_version():
    assert importlib.metadata.version("lmdeploy") in SUPPORTED_VERSIONS


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature(path):
    assert tuple(inspect.signature(find(path)).parameters) == SIGNATURES[path], (
        f"{path} has changed"
    )


@pytest.mark.parametrize("path", FIELDS)
def test_fields(path):
    missing = set(FIELDS[path]) - set(inspect.signature(find(path)).parameters)
    assert not missing, f"{path} has lost {sorted(missing)}"


def test_native_forward():
    """The arguments are given by their places."""
    text = find("lmdeploy.turbomind._turbomind:ModelRequest.forward").__doc__
    names = re.findall(r"(\w+): ", text.partition("->")[0])
    assert names == [
        "self", "input_tensors", "mm_inputs", "session", "gen_cfg", "stream_output", "enable_metrics", "cb",
    ]  # fmt: skip
    results = re.findall(r"_turbomind\.(\w+)", text.partition("->")[2])
    assert results == ["TensorMap", "AtomicRequestState", "RequestMetrics"], "forward has changed"


@pytest.mark.parametrize("name", NATIVE)
def test_native(name):
    found = find(f"lmdeploy.turbomind._turbomind:{name}")
    missing = [member for member in NATIVE[name] if not hasattr(found, member)]
    assert not missing, f"the native {name} has lost {missing}"


def test_statuses_of_the_native_request():
    source = inspect.getsource(find("lmdeploy.turbomind.turbomind:TurboMindInstance.__init__"))
    for code in (1, 2, 5, 6, 7, 8, 9, 10, 11, -1):
        assert f"{code}: ResponseType." in source, f"errcode_map has lost {code}"


def test_the_vision_dtype_has_its_name():
    source = inspect.getsource(find("lmdeploy.turbomind.models.internvl:InternVLModel.__init__"))
    assert "self._vision_data_type = vision_data_type" in source, "_vision_data_type has moved"


def test_the_native_side_has_no_penalties_of_openais_and_no_biases():
    """They are refused because of that."""
    config = find("lmdeploy.turbomind._turbomind:GenerationConfig")
    for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
        assert not hasattr(config, name), (
            f"TurboMind has learned {name}: map it, state its capability"
        )


def test_logits_are_those_of_the_tokens_so_far():
    source = inspect.getsource(find("lmdeploy.turbomind.turbomind:_get_logits"))
    assert "logits[:step - offset - 1, :]" in source, "_get_logits has changed"


def test_native_grammar_compiler_takes_its_bounds():
    text = find("lmdeploy.turbomind._turbomind:GrammarCompiler").__init__.__doc__
    for name in ("tokenizer_info", "max_threads", "max_memory_bytes"):
        assert name in text, f"GrammarCompiler has lost {name}"
