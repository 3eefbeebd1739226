"""What the model sees: the tokenizer, the prompt template, and how images become tiles."""

from collections.abc import Iterator

from internvl_server.core import Conversation, Detail, ImageReference, Message, TextPart
from internvl_server.doctor.finding import Check, Finding, error, ok, warning
from internvl_server.doctor.subject import Subject
from internvl_server.errors import StartupError
from internvl_server.media.pixels.resizing import find_problem
from internvl_server.prompt.builder import select_template
from internvl_server.prompt.checkpoint.template import CheckpointTemplate, load_checkpoint_template
from internvl_server.prompt.template import InternVL25Template
from internvl_server.prompt.tokenizer import PromptTokenizer, load_tokenizer
from internvl_server.startup_check import check_tiles, written_prompt

__all__ = ["CHECKS"]

_SHOWN_CHARS = 40
_IMAGE = ImageReference("data:,", Detail.AUTO, None, "messages[1].content[0].image_url")
# With a system text, because templates of published checkpoints have different ones by default.
_CONVERSATION = Conversation(
    (
        Message("system", (TextPart("Be brief."),)),
        Message("user", (_IMAGE, TextPart("What is this?"))),
        Message("assistant", (TextPart("A cat."),)),
        Message("user", (TextPart("Sure?"),)),
    )
)


def tokenizer(subject: Subject) -> Iterator[Finding]:
    """Whether the tokenizer can be read, and has the tokens of the prompt."""
    if subject.checkpoint is None:
        return
    try:
        loaded = load_tokenizer(subject.checkpoint.path)
        for name in ("<img>", "</img>", "<|im_start|>", "<|im_end|>"):
            loaded.control_id(name)
    except StartupError as err:
        yield error(err.message, "Download the tokenizer's files again, or use the -hf version.")
    else:
        yield ok(f"The tokenizer has {loaded.vocab_size:,} tokens and the marks of prompts.")


def template(subject: Subject) -> Iterator[Finding]:
    """Whether the checkpoint's chat template writes prompts as the built-in one."""
    loaded = _tokenizer_of(subject)
    if loaded is None or subject.checkpoint is None:
        return
    try:
        used = select_template(subject.checkpoint, loaded)
    except StartupError as err:
        yield error(err.message, "Set model.template, or correct the checkpoint's template.")
        return
    other = _template_of(subject, loaded)
    if other is None:
        yield ok(f"The template {used.name} is used; the checkpoint has no valid one.")
        return
    ours, theirs = (written_prompt(one, _CONVERSATION) for one in (InternVL25Template(), other))
    if ours == theirs:
        yield ok(f"The template {used.name} is used; the checkpoint's writes the same.")
    else:
        yield warning(
            f"The template {used.name} is used. {_difference(ours or '', theirs)}",
            "Set model.template to the one with which the model was trained: internvl2_5 for the published "
            "ones, checkpoint for one that was trained with its chat template.",
        )


def tiles(_: Subject) -> Iterator[Finding]:
    """Whether images are cut, resized and normalised as the model was trained."""
    try:
        check_tiles()
    except StartupError as err:
        yield error(err.message, "Install Pillow, numpy and the server again.")
    else:
        yield ok("Grids, resized and normalised pixels equal those of the reference.")


def resizer(subject: Subject) -> Iterator[Finding]:
    """Whether images can be resized fast, where that is wanted."""
    wanted = subject.settings.media.resize
    if wanted == "exact" or (wanted == "auto" and subject.engine.kind != "turbomind"):
        return
    problem = find_problem()
    if problem is None:
        yield ok("Images are resized fast, within two levels of 255 of the exact pixels.")
    elif wanted == "fast":
        yield error(f"media.resize is 'fast', but {problem}.", "Install internvl-server[fast].")
    else:
        yield warning(
            f"Images are resized exactly, but slowly: {problem}.",
            "Install internvl-server[fast] where there are wheels of it.",
        )


def _tokenizer_of(subject: Subject) -> PromptTokenizer | None:
    try:
        return None if subject.checkpoint is None else load_tokenizer(subject.checkpoint.path)
    except StartupError:
        return None


def _template_of(subject: Subject, loaded: PromptTokenizer) -> CheckpointTemplate | None:
    """The checkpoint's template; None if it has none, or not a valid one."""
    assert subject.checkpoint is not None
    try:
        return load_checkpoint_template(subject.checkpoint.path, loaded.control_pattern)
    except (StartupError, OSError, ValueError):
        return None


def _difference(ours: str, theirs: str | None) -> str:
    if theirs is None:
        return "The checkpoint's accepts no system text, image or second turn."
    pairs = enumerate(zip(ours, theirs, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    shown = (repr(text[start : start + _SHOWN_CHARS]) for text in (ours, theirs))
    return "After {} characters the built-in one writes {} and the checkpoint's {}.".format(
        start, *shown
    )


CHECKS: tuple[Check, ...] = (tokenizer, template, tiles, resizer)
