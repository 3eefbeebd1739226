"""The messages of a conversation, and media as its parts."""

import base64
from pathlib import Path

import pytest
from internvl_server.chat.conversation import ChatError, Conversation, media_part

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


def test_attachments_belong_to_one_question() -> None:
    conversation = Conversation("Be brief.", [IMAGE])
    first = conversation.question("What is this?")
    assert first["content"] == [IMAGE, {"type": "text", "text": "What is this?"}]
    conversation.add(first, "A star.")
    second = conversation.question("Sure?")
    assert conversation.messages(second) == [
        {"role": "system", "content": "Be brief."},
        first,
        {"role": "assistant", "content": "A star."},
        {"role": "user", "content": "Sure?"},
    ]


def test_what_is_not_answered_is_not_kept() -> None:
    conversation = Conversation(attachments=[IMAGE])
    conversation.question("What is this?")
    assert conversation.messages({}) == [{}]
    assert conversation.attachments == [IMAGE]


def test_undo_and_reset() -> None:
    conversation = Conversation("Be brief.")
    conversation.add(conversation.question("one"), "1")
    conversation.add(conversation.question("two"), "2")
    conversation.attachments.append(IMAGE)
    assert [conversation.undo(), conversation.undo()] == [
        "the attachments",
        "the last question and its answer",
    ]
    assert [message["content"] for message in conversation.messages({})[:-1]] == [
        "Be brief.",
        "one",
        "1",
    ]
    conversation.reset()
    assert conversation.undo() == "nothing"
    assert len(conversation.messages({})) == 2


@pytest.mark.parametrize(
    ("name", "kind", "head"),
    [
        ("a.jpg", "image", "data:image/jpeg;base64,"),
        ("a.mp4", "video", "data:video/mp4;base64,"),
        ("a", "image", "data:application/octet-stream;base64,"),
    ],
)
def test_files_become_data_urls(tmp_path: Path, name: str, kind: str, head: str) -> None:
    (tmp_path / name).write_bytes(b"data")
    part = media_part(kind, str(tmp_path / name))
    assert part["type"] == f"{kind}_url"
    assert part[f"{kind}_url"]["url"] == head + base64.b64encode(b"data").decode()


def test_addresses_are_passed_on() -> None:
    for url in ("https://example.org/a.jpg", "HTTP://example.org/a", "data:image/png;base64,AA=="):
        assert media_part("image", url)["image_url"]["url"] == url


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"data")
    with pytest.raises(ChatError, match=r"is not of the kind image, but video/mp4"):
        media_part("image", str(tmp_path / "a.mp4"))
    missing = [
        str(tmp_path / "b.jpg"),
        str(tmp_path),
        "/dev/zero",
        "a" * 300,
        "~nobody-here/a.jpg",
        "\0",
    ]
    for name in missing:
        with pytest.raises(ChatError, match="there is no file"):
            media_part("image", name)
