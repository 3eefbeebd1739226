"""Request fields of other servers and of gateways: vLLM, SGLang, LMDeploy, llama.cpp, Ollama and others.

Their meanings are taken from the servers' own request models and manuals. The tables of the endpoints and of
the documentation are built from these.
"""

from collections.abc import Mapping

from internvl_server.protocol.fields.members import Foreign

__all__ = [
    "ANSWER",
    "BESIDE_IMAGE_URL",
    "BESIDE_VIDEO_URL",
    "CHAT_CONVERSATION",
    "CONSTRAINT",
    "CONVERSATION",
    "FRAMES",
    "MESSAGE",
    "OPTIONS",
    "STRUCTURED",
    "TILES",
    "token_limit",
    "under",
]

_MESSAGES = "Put it into a message."
_IMAGES = "Send images as content parts of a message."
_LOGPROBS = "Use 'logprobs' and 'top_logprobs'."
_NO_ADAPTERS = "Adapters are not loaded; leave it out."
_NOT_STORED = "Nothing is stored here; send the whole conversation."
_HINT = Foreign()


def under(holder: str, members: Mapping[str, Foreign]) -> dict[str, Foreign]:
    """Fields as members of an object of the body."""
    return {f"{holder}.{name}": foreign for name, foreign in members.items()}


STRUCTURED: Mapping[str, Foreign] = {
    "ebnf": Foreign("structured_outputs.grammar", neutral=("",)),
    "grammar": Foreign("structured_outputs.grammar", neutral=("",)),
    "guided_choice": Foreign("structured_outputs.choice", neutral=([],)),
    "guided_decoding_backend": _HINT,
    "guided_grammar": Foreign("structured_outputs.grammar", neutral=("",)),
    "guided_json": Foreign("structured_outputs.json", neutral=("",)),
    "guided_json_object": Foreign("structured_outputs.json_object"),
    "guided_regex": Foreign("structured_outputs.regex", neutral=("",)),
    "guided_whitespace_pattern": _HINT,
    "json_schema": Foreign("structured_outputs.json", neutral=("",)),
    "regex": Foreign("structured_outputs.regex", neutral=("",)),
    "structural_tag": Foreign(instead="Use 'structured_outputs' or 'tools'."),
}
"""Constraints of the answer."""

CONSTRAINT: Mapping[str, Foreign] = {
    "disable_additional_properties": Foreign(
        instead="Set 'additionalProperties' to false in the schema."
    ),
    "disable_any_whitespace": _HINT,
    "structural_tag": STRUCTURED["structural_tag"],
    "whitespace_pattern": _HINT,
}
"""Members of `structured_outputs`."""

_SAMPLING: Mapping[str, Foreign] = {
    "allowed_token_ids": Foreign(instead="Use 'logit_bias' or 'structured_outputs'."),
    "bad_words": Foreign(instead="Use 'logit_bias'."),
    "ban_eos_token": Foreign("ignore_eos"),
    "custom_logit_processor": Foreign(instead="Use 'logit_bias'."),
    # Sampling at temperature 0 is greedy too, so true changes nothing.
    "do_sample": Foreign("temperature", neutral=(True,), values=((False, 0),)),
    "dry_allowed_length": _HINT,
    "dry_base": _HINT,
    "dry_multiplier": Foreign(instead="Use 'repetition_penalty'."),
    "dry_penalty_last_n": _HINT,
    "dry_sequence_breakers": _HINT,
    "dynatemp_exponent": _HINT,
    "dynatemp_range": Foreign(instead="Use 'temperature'."),
    "early_stopping": _HINT,
    "encoder_repetition_penalty": Foreign(instead="Use 'repetition_penalty'.", neutral=(1,)),
    "epsilon_cutoff": Foreign(instead="Use 'top_p' or 'min_p'."),
    "eta_cutoff": Foreign(instead="Use 'top_p' or 'min_p'."),
    "guidance_scale": Foreign(instead="Leave it out.", neutral=(1,)),
    "length_penalty": Foreign(neutral=(1,)),
    "logits_processors": Foreign(instead="Use 'logit_bias'."),
    "min_keep": _HINT,
    "min_length": Foreign(instead="Use 'min_tokens'."),
    "min_new_tokens": Foreign("min_tokens"),
    "mirostat": Foreign(instead="Use 'temperature' and 'top_p'."),
    "mirostat_eta": _HINT,
    "mirostat_tau": _HINT,
    "negative_prompt": Foreign(instead="Leave it out."),
    "no_repeat_ngram_size": Foreign(instead="Use 'repetition_penalty'."),
    "no_stop_trim": Foreign("include_stop_str_in_output"),
    "num_beams": Foreign(instead="Use 'n' for several answers.", neutral=(1,)),
    "penalty_alpha": Foreign(instead="Use 'repetition_penalty'."),
    "random_seed": Foreign("seed"),
    "repeat_last_n": _HINT,
    "repeat_penalty": Foreign("repetition_penalty"),
    "repetition_detection": Foreign(instead="Use 'repetition_penalty'."),
    "repetition_ngram_size": Foreign(instead="Use 'repetition_penalty'."),
    "repetition_ngram_threshold": _HINT,
    "samplers": _HINT,
    "smoothing_factor": Foreign(instead="Use 'temperature'."),
    "stop_regex": Foreign(instead="Use 'stop'."),
    "stop_sequences": Foreign("stop", neutral=([], "")),
    "tfs_z": Foreign(instead="Use 'top_p' or 'min_p'.", neutral=(1,)),
    "top_a": Foreign(instead="Use 'min_p'."),
    "top_n_sigma": Foreign(instead="Use 'top_p' or 'min_p'.", neutral=(-1,)),
    "typ_p": Foreign(instead="Use 'top_p' or 'min_p'.", neutral=(1,)),
    "typical_p": Foreign(instead="Use 'top_p' or 'min_p'.", neutral=(1,)),
    "use_beam_search": Foreign(instead="Use 'n' for several answers."),
    "watermark": Foreign(instead="Leave it out."),
    "watermarking": Foreign(instead="Leave it out."),
    "xtc_probability": Foreign(instead="Use 'temperature'."),
    "xtc_threshold": _HINT,
}

_SHOWN: Mapping[str, Foreign] = {
    "logprob_token_ids": Foreign(instead=_LOGPROBS),
    "n_probs": Foreign(instead=_LOGPROBS),
    "post_sampling_probs": Foreign(instead=_LOGPROBS),
    "prompt_logprobs": Foreign(
        instead="Log probabilities of the prompt are not computed.", not_neutral=(0,)
    ),
    "return_hidden_states": Foreign(instead="Leave it out."),
    "return_logprob": Foreign(instead=_LOGPROBS),
    "return_meta_info": Foreign(instead="Leave it out."),
    "return_prompt_text": Foreign(instead="Use '/tokenize' and '/detokenize'."),
    "return_prompt_token_ids": Foreign(instead="Use '/tokenize'."),
    "return_routed_experts": Foreign(instead="Leave it out."),
    "return_token_ids": Foreign(instead="Use '/tokenize' on the text of the answer."),
    "return_tokens": Foreign(instead="Use '/tokenize' on the text of the answer."),
    "return_tokens_as_token_ids": Foreign(instead="Use the 'bytes' of 'logprobs'."),
    "top_n_tokens": Foreign(instead=_LOGPROBS),
}

_SERVING: Mapping[str, Foreign] = {
    "cache_prompt": _HINT,
    "cache_salt": _HINT,
    "extra_body": Foreign(instead="Put its members into the body itself."),
    "id_slot": Foreign(neutral=(-1,)),
    "keep_alive": _HINT,
    "kv_transfer_params": _HINT,
    "kwargs": _HINT,
    "adapter_id": Foreign(instead=_NO_ADAPTERS),
    "adapter_ids": Foreign(instead=_NO_ADAPTERS),
    "adapter_name": Foreign(instead=_NO_ADAPTERS),
    "lora": Foreign(instead=_NO_ADAPTERS),
    "lora_path": Foreign(instead=_NO_ADAPTERS),
    "lora_request": Foreign(instead=_NO_ADAPTERS),
    "max_length": Foreign(instead="Set the limit of generated tokens instead."),
    "n_keep": _HINT,
    "priority": _HINT,
    "request_id": _HINT,
    "rid": _HINT,
    "session_id": Foreign(neutral=(-1,)),
    "session_params": Foreign(instead=_NOT_STORED),
    "spaces_between_special_tokens": Foreign(neutral=(True,)),
    "stream_interval": _HINT,
    "t_max_predict_ms": Foreign(instead="Set the limit of generated tokens instead."),
    "timings_per_token": _HINT,
    "truncate": Foreign(instead="Prompts that are too long are refused, never shortened."),
    "truncate_prompt_tokens": Foreign(
        instead="Prompts that are too long are refused, never shortened.", not_neutral=(0,)
    ),
    "truncation_side": _HINT,
}

ANSWER: Mapping[str, Foreign] = {**_SAMPLING, **_SHOWN, **_SERVING, **STRUCTURED}
"""Fields of every endpoint that generates."""

_THINKING_SWITCH = Foreign("enable_thinking", is_switch=True)

_THINKING: Mapping[str, Foreign] = {
    "reasoning_format": Foreign(neutral=("auto", "deepseek", "parsed"), not_neutral=("none",)),
    "stream_reasoning": _HINT,
    "think": _THINKING_SWITCH,
    "thinking_budget": _HINT,
    "thinking_token_budget": _HINT,
}
_THINKING_OF_TEMPLATE: Mapping[str, Foreign] = {
    **_THINKING,
    "enable_thinking": _THINKING_SWITCH,
    "thinking": _THINKING_SWITCH,
}

TILES: Mapping[str, Foreign] = {
    "crop_to_patches": Foreign(
        instead="Set 'max_tiles' to 1.", neutral=(True,), not_neutral=(False,)
    ),
    "dynamic_image_size": Foreign(
        instead="Set 'max_tiles' to 1.", neutral=(True,), not_neutral=(False,)
    ),
    "max_dynamic_patch": Foreign("max_tiles"),
    "max_patches": Foreign("max_tiles"),
    "min_dynamic_patch": Foreign(instead="Use 'max_tiles'.", neutral=(1,)),
    "min_patches": Foreign(instead="Use 'max_tiles'.", neutral=(1,)),
    "use_thumbnail": Foreign(
        instead="The checkpoint decides about the thumbnail; leave it out.",
        neutral=(True,),
        not_neutral=(False,),
    ),
}
"""How finely images are tiled, as members of an image or of `mm_processor_kwargs`."""

BESIDE_IMAGE_URL: Mapping[str, Foreign] = {
    "detail": Foreign("image_url.detail"),
    "max_dynamic_patch": Foreign("image_url.max_tiles"),
    "max_tiles": Foreign("image_url.max_tiles"),
}
"""Members of an image's part that belong to its URL."""

FRAMES: Mapping[str, Foreign] = {
    "fps": Foreign(instead="Use 'num_frames'.", neutral=(-1,)),
    "max_dynamic_patch": Foreign(instead="A frame is one tile; leave it out.", neutral=(1,)),
    "nframes": Foreign("num_frames"),
}
"""Members of a video."""

BESIDE_VIDEO_URL: Mapping[str, Foreign] = {
    **FRAMES,
    "nframes": Foreign("video_url.num_frames"),
    "num_frames": Foreign("video_url.num_frames"),
}
"""Members of a video's part that belong to its URL."""

MESSAGE: Mapping[str, Foreign] = {
    "audio": Foreign(instead="The model takes no audio."),
    "function_call": Foreign(instead="Use 'tool_calls'."),
    "images": Foreign(instead="Send 'image_url' parts."),
    "partial": Foreign(instead="Use 'continue_final_message'."),
    "prefix": Foreign(instead="Use 'continue_final_message'."),
    "tools": Foreign(instead="Use the 'tools' of the request."),
}
"""Members of a message."""

CONVERSATION: Mapping[str, Foreign] = {
    **_THINKING,
    "chat_template": Foreign(instead="Set 'model.template' on the server."),
    **under("chat_template_kwargs", _THINKING_OF_TEMPLATE),
    "custom_params": _HINT,
    "documents": Foreign(instead=_MESSAGES),
    "image_data": Foreign(instead=_IMAGES),
    "image_url": Foreign(instead=_IMAGES),
    "images": Foreign(instead=_IMAGES),
    "input_ids": Foreign(instead="Use '/v1/completions', whose 'prompt' may be token ids."),
    "max_dynamic_patch": TILES["max_dynamic_patch"],
    "min_dynamic_patch": TILES["min_dynamic_patch"],
    **under("mm_processor_kwargs", TILES),
    "use_audio_in_video": Foreign(instead="The model takes no audio; leave it out."),
}
"""Fields that become the prompt."""

CHAT_CONVERSATION: Mapping[str, Foreign] = {
    **CONVERSATION,
    "image": Foreign(instead=_IMAGES),
    "media_io_kwargs.video.fps": FRAMES["fps"],
    "media_io_kwargs.video.num_frames": Foreign("num_frames"),
}
"""Fields that become the prompt of messages, which may have videos."""

_SAME_IN_OPTIONS = (
    "frequency_penalty", "min_p", "presence_penalty", "seed", "stop", "temperature", "top_k", "top_p",
)  # fmt: skip

OPTIONS: Mapping[str, Foreign] = under(
    "options", {**_SAMPLING, **{name: Foreign(name) for name in _SAME_IN_OPTIONS}}
)
"""The members of Ollama's `options`; further ones are about its memory and threads."""

_LIMITS = ("max_new_tokens", "n_predict", "num_predict", "options.num_predict")


def token_limit(field: str, *others: str) -> dict[str, Foreign]:
    """Other names of the field that limits the length of an answer.

    Args:
        field: The endpoint's own name for it.
        others: Further names, besides those of every endpoint.
    """
    return {name: Foreign(field, neutral=(-1,)) for name in (*_LIMITS, *others)}
