"""The demo model's architecture: a small InternVL configuration."""

from __future__ import annotations

from tokenizers import Tokenizer
from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

# Width of the vision tower and of the language model.
WIDTH = 192
TILE_PX = 448
PATCH_PX = 28
TOKENS_PER_TILE = 64
# The lower layers of the vision tower recognise what patches show; the upper layers gather it.
LOWER_LAYERS, UPPER_LAYERS = 4, 2
MAX_DYNAMIC_PATCH = 4
# Large, so that most channels of a small head are insensitive to the distance of a visual token.
ROPE_THETA = 1_000_000.0
# The language model's heads whose attention is supervised in training, by layer. The heads of
# READ_LAYER find the item that the question names, those of WRITE_LAYER the item to name next.
READ_LAYER, WRITE_LAYER = 1, 2
SUPERVISED_HEADS = {READ_LAYER: (0, 2), WRITE_LAYER: (0, 1, 2, 3)}


def build_config(tokenizer: Tokenizer) -> InternVLConfig:
    """Return the model's configuration, with the additional keys that the server reads."""
    eos, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    return InternVLConfig(
        vision_config=_vision_config().to_dict(),
        text_config=_text_config(tokenizer.get_vocab_size(), eos, pad).to_dict(),
        image_token_id=tokenizer.token_to_id("<IMG_CONTEXT>"),
        image_seq_length=TOKENS_PER_TILE,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
        eos_token_id=eos,
        pad_token_id=pad,
        template="internvl2_5",
        served_name="internvl-demo",
        max_dynamic_patch=MAX_DYNAMIC_PATCH,
    )


def build_model(config: InternVLConfig) -> InternVLForConditionalGeneration:
    """Return a model with transformers' random weights and eager attention."""
    model = InternVLForConditionalGeneration(config)
    # Plain matrix products train faster than the fused kernel at this size on CPUs.
    model.model.vision_tower.set_attn_implementation("eager")
    model.model.language_model.set_attn_implementation("eager")
    return model


def _vision_config() -> InternVLVisionConfig:
    return InternVLVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LOWER_LAYERS + UPPER_LAYERS,
        num_attention_heads=6,
        attention_bias=True,
        intermediate_size=4 * WIDTH,
        image_size=TILE_PX,
        patch_size=PATCH_PX,
        layer_scale_init_value=1.0,
    )


def _text_config(vocab_size: int, eos: int, pad: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        initializer_range=0.05,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )
