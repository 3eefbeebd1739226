"""Token sequences that share their images among many questions.

A sequence is a prefix (system text, images) and several branches, each with its own question.
Branches cannot attend to each other and start at the same position, so each is trained exactly
as if it followed the prefix alone, at a fraction of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenizers import Encoding, Tokenizer

from scripts.demo_model.network.architecture import TOKENS_PER_TILE
from scripts.demo_model.training.language.attention_targets import (
    AttentionTarget,
    answer_targets,
    question_targets,
    tokens_with_target,
)
from scripts.demo_model.training.language.images import EncodedImage
from scripts.demo_model.world.questions import Qa

# The label of tokens that the loss ignores, and the answer number of tokens outside answers.
IGNORE, NO_ANSWER = -100, -1
_CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")


@dataclass
class Sequence:
    """Tokens of a prefix and its branches.

    Attributes:
        ids: Token ids.
        branch: Branch number of every token; 0 for the prefix.
        position: Position of every token, counted along its own branch.
        labels: The token itself inside answers, ``IGNORE`` elsewhere.
        answer: Number of the answer that a token belongs to, ``NO_ANSWER`` elsewhere.
        kinds: The kind of every answer.
        images: The images in the order of their tokens.
        image_ends: Index of the ``</img>`` token of every image.
        targets: Index of a token, and what it should attend to.
    """

    ids: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    images: list[EncodedImage] = field(default_factory=list)
    image_ends: list[int] = field(default_factory=list)
    targets: list[tuple[int, AttentionTarget]] = field(default_factory=list)


class SequenceWriter:
    """Writes sequences in the ``internvl2_5`` template, encoded part by part as in the server."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self._control = {name: vocabulary[name] for name in _CONTROL_TOKENS}
        self._cache: dict[str, Encoding] = {}
        self.begin()

    def begin(self, *, supervised_images: int = 2) -> None:
        """Start a new sequence; attention is supervised until it has more than this many images."""
        self.sequence = Sequence()
        self._supervised_images = supervised_images
        self._branch = self._branch_start = self._position = 0

    def fork(self) -> None:
        """Start the next branch at the end of the prefix."""
        if self._branch == 0:
            self._branch_start = self._position
        self._branch += 1
        self._position = self._branch_start

    def text(self, text: str, *, answer: int = NO_ANSWER) -> None:
        """Write a text, which must not be split over two calls."""
        if text not in self._cache:
            self._cache[text] = self._tokenizer.encode(text)
        encoding, first = self._cache[text], len(self.sequence.ids)
        self._append(encoding.ids, answer=answer)
        scenes = [image.scene for image in self.sequence.images]
        if 0 < len(scenes) <= self._supervised_images and not any(scene.tiny for scene in scenes):
            find = question_targets if answer == NO_ANSWER else answer_targets
            found = tokens_with_target(find(text, scenes), encoding.offsets)
            self.sequence.targets += [(first + index, target) for index, target in found]

    def control(self, name: str, *, answer: int = NO_ANSWER) -> None:
        """Write a control token."""
        self._append([self._control[name]], answer=answer)

    def image(self, image: EncodedImage) -> None:
        """Write an image's placeholder tokens."""
        self.control("<img>")
        self._append([self._control["<IMG_CONTEXT>"]] * (TOKENS_PER_TILE * len(image.features)))
        self.sequence.image_ends.append(len(self.sequence.ids))
        self.control("</img>")
        self.sequence.images.append(image)

    def system(self, text: str) -> None:
        """Write the system turn."""
        self.control("<|im_start|>")
        self.text(f"system\n{text}")
        self.control("<|im_end|>")
        self.text("\n")

    def answer(self, qa: Qa) -> None:
        """End the user's turn and write the assistant's, whose tokens the loss counts."""
        self.control("<|im_end|>")
        self.text("\n")
        self.control("<|im_start|>")
        self.text("assistant\n")
        number = len(self.sequence.kinds)
        self.sequence.kinds.append(qa.kind)
        self.text(qa.answer, answer=number)
        self.control("<|im_end|>", answer=number)

    def turn(self, question: str, qa: Qa) -> None:
        """Write a further turn: the question as worded by the user, and the answer."""
        self.text("\n")
        self.control("<|im_start|>")
        self.text(f"user\n{question}")
        self.answer(qa)

    def _append(self, ids: list[int], *, answer: int = NO_ANSWER) -> None:
        s = self.sequence
        s.ids += ids
        s.branch += [self._branch] * len(ids)
        s.position += range(self._position, self._position + len(ids))
        s.labels += [IGNORE] * len(ids) if answer == NO_ANSWER else ids
        s.answer += [answer] * len(ids)
        self._position += len(ids)
