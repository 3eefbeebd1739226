"""What is read from the files of a checkpoint folder, in both layouts, and what is said of missing ones."""

import json

import pytest
from internvl_server.checkpoint.files import load_checkpoint
from internvl_server.errors import StartupError
from internvl_server.settings import ModelSettings

from scripts.make_random_checkpoint import SHAPES, write_checkpoint


@pytest.fixture(params=["hf", "authors"])
def folder(request, tmp_path):
    path = tmp_path / "my-model"
    write_checkpoint(path, SHAPES["tiny"], layout=request.param, dtype="float16")
    return path


def load(folder, **settings):
    return load_checkpoint(ModelSettings(path=str(folder), **settings))


def edit(path, **changes):
    """Change fields of a JSON file; a null removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_both_layouts_say_the_same(folder):
    checkpoint = load(folder)
    assert (checkpoint.tile_px, checkpoint.num_tokens_per_tile) == (56, 4)
    assert (checkpoint.max_tiles, checkpoint.max_model_len) == (12, 2048)
    assert (checkpoint.served_name, checkpoint.template) == ("my-model", "internvl2_5")
    assert (checkpoint.image_token_id, checkpoint.stop_token_ids) == (344, {320, 322})
    assert not checkpoint.needs_code
    text = checkpoint.config.text
    assert (text.family, text.rope_theta, text.has_qkv_bias) == ("qwen2", 1e6, True)
    assert (text.num_key_value_heads, text.head_dim) == (2, 16)


def test_settings_go_before_the_files(folder):
    checkpoint = load(folder, served_name="x", template="checkpoint", max_model_len=100)
    assert (checkpoint.served_name, checkpoint.template) == ("x", "checkpoint")
    assert checkpoint.max_model_len == 100


def test_the_context_is_at_most_the_trained_one(folder):
    config = json.loads((folder / "config.json").read_text())
    section = "llm_config" if "llm_config" in config else "text_config"
    edit(folder / "config.json", **{section: config[section] | {"rope_scaling": None}})
    with pytest.raises(StartupError, match=r"max_model_len is 2049.* trained for 2048 tokens\.$"):
        load(folder, max_model_len=2049)


def test_its_own_scaling_of_positions_allows_a_longer_context(folder):
    """InternVL3's has a factor of 2; without a setting the trained context is served."""
    assert load(folder).max_model_len == 2048
    assert load(folder, max_model_len=4096).max_model_len == 4096
    with pytest.raises(
        StartupError, match="trained for 2048 tokens, and its rope_scaling allows 4096"
    ):
        load(folder, max_model_len=4097)


def test_max_tiles_comes_from_either_file(folder):
    edit(folder / "config.json", max_dynamic_patch=None)
    edit(folder / "preprocessor_config.json", max_patches=7)
    assert load(folder).max_tiles == 7
    edit(folder / "config.json", max_dynamic_patch=5)
    assert load(folder).max_tiles == 5


def test_every_config_may_name_stop_tokens(folder):
    edit(folder / "generation_config.json", eos_token_id=[323, 324])
    assert load(folder).stop_token_ids == {323, 324, 320, 322}
    edit(folder / "generation_config.json", eos_token_id=325)
    assert load(folder).stop_token_ids == {325, 320, 322}


@pytest.mark.parametrize(
    ("shape", "end", "image"),
    [
        ("1b", 151_645, 151_667),
        ("1b-qwen3", 151_645, 151_671),
        ("2b-internlm2", 92_542, 92_546),
    ],
)
def test_random_checkpoints_have_the_published_ids(shape, end, image):
    """Of `<|im_end|>`, as each text model's configs name it, and of `<IMG_CONTEXT>`."""
    ids = [SHAPES[shape].token_id(text) for text in ("<|im_end|>", "<IMG_CONTEXT>")]
    assert ids == [end, image]


def test_an_answer_does_not_end_at_a_word(folder, caplog):
    """Published for the 9B: an id of InternLM2, which is a word of InternLM3. 334 is <tool_call>."""
    edit(folder / "generation_config.json", eos_token_id=[92, 323, 334])
    assert load(folder).stop_token_ids == {320, 322, 323}
    assert "[92, 334]" in caplog.text


def test_a_null_counts_as_omitted(folder):
    path = folder / "config.json"
    expected = load(folder).config
    content = json.loads(path.read_text()) | {"served_name": None}
    content["llm_config" if "llm_config" in content else "text_config"]["head_dim"] = None
    path.write_text(json.dumps(content))
    assert load(folder).config == expected


def test_the_hash_changes_with_the_file(folder):
    before = load(folder).config_hash
    edit(folder / "config.json", unknown=1)
    assert load(folder).config_hash != before


def test_a_tokenizer_that_is_code_is_noticed(folder):
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]})
    assert load(folder).needs_code


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        ("{", "config.json of the checkpoint is not readable JSON"),
        ("[]", "not a JSON object"),
        ("{}", r"config.json of my-model names the architecture \[\]"),
        ('{"architectures": ["InternVLChatModel"]}', "no section 'llm_config'"),
    ],
)
def test_a_bad_config_is_named(folder, content, message):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(StartupError, match=message):
        load(folder)


def test_a_tokenizer_without_the_image_token_is_refused(folder):
    edit(folder / "config.json", image_token_id=None)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<IMG_CONTEXT>", "<OTHER>"))
    with pytest.raises(StartupError, match="no token <IMG_CONTEXT>"):
        load(folder)
    edit(path, added_tokens=[1])
    with pytest.raises(StartupError, match="of my-model is not one of an InternVL model"):
        load(folder)


def test_there_must_be_a_folder(tmp_path):
    with pytest.raises(StartupError, match="there is no folder"):
        load(tmp_path / "nothing")
