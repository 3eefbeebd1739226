"""The demo model's tokenizer: byte-level BPE with a token for every word of the demo world."""

from __future__ import annotations

import random
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from scripts.demo_model.world import questions as q
from scripts.demo_model.world import wordings as w
from scripts.demo_model.world.colours import COLOURS
from scripts.demo_model.world.scene import PLACES, SHAPES, symbolic_item, symbolic_scene

SYSTEM_TEXT = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、"
    "清华大学及多家合作单位联合开发的多模态大语言模型。"
)
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<image>",
)
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM_TEXT
    + "<|im_end|>\n{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen2's pre-tokenisation: words with one leading sign, single digits, signs.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# JSON answers that contain every place, and the punctuation of one, two and more items.
_ITEMS = tuple(symbolic_item("red", "star", place) for place in range(len(PLACES)))
_JSON_SCENES = symbolic_scene(_ITEMS), symbolic_scene(_ITEMS[:1])


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer on the world's words, each with and without a leading space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=50,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    )
    return tokenizer


def tokenizer_settings() -> dict[str, object]:
    """Return the content of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "chat_template": CHAT_TEMPLATE,
    }


def _texts() -> list[str]:
    """Return every fixed text of the demo world without its placeholders."""
    lists = [v for v in vars(w).values() if isinstance(v, tuple) and isinstance(v[0], str)]
    texts = [re.sub(r"\{\w+\}", "", text) for group in lists for text in group]
    texts += [word for words in w.AT for word in words]
    texts += [q.WHO_ANSWER, q.NO_PICTURE_ANSWER, q.OFF_TOPIC_ANSWER, q.TOO_TINY_ANSWER]
    texts += [
        q.NO_TINY_ANSWER,
        "Both images contain. Neither image contains. Yes, there is. No, there",
    ]
    texts += [
        f"{name} {name}s" for name in (*COLOURS, *SHAPES, "picture", "image", "photo", "shape")
    ]
    texts += ["Frame1: Frame2: The red circle moves from the left to the right."]
    texts += ["no one two three four first second an a color center tiny", "system user assistant"]
    return texts


def _words() -> list[str]:
    found = {word for text in _texts() for word in re.findall(r"[A-Za-z]+", text)}
    return sorted(found | {word.lower() for word in found} | {word.capitalize() for word in found})


def _corpus() -> list[str]:
    """Return the training texts, repeated so that every word becomes one token."""
    lower = [word for word in _words() if word.islower()]
    capital = [word for word in _words() if not word.islower()]
    corpus = [f"{word} {word}" for word in lower] * 100 + capital * 100
    corpus += _texts() * 60 + [f" {letter}" for letter in "AI"] * 100
    corpus += [q.as_json(random.Random(0), scene).answer for scene in _JSON_SCENES] * 100
    labels = ["Image-1: Image-2: Frame1: ", "\nFrame2: \nImage-2: "]
    corpus += [SYSTEM_TEXT] * 500 + [".\n", "?\n", "!\n", *labels] * 100
    random.Random(0).shuffle(corpus)
    return corpus
