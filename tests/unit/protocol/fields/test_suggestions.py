import pytest
from internvl_server.protocol.chat.request import CHAT_FIELDS
from internvl_server.protocol.fields.suggestions import Speller

KNOWN = CHAT_FIELDS.defined.suggested


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("stream_otpions", "stream_options"),
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("max_completion_token", "max_completion_tokens"),
        ("respose_fromat", "response_format"),
        ("max_completion_tokesn", "max_completion_tokens"),
        ("message", "messages"),
        ("top-p", "top_p"),
        ("topk", "top_k"),
        ("tool", "tools"),
        ("modle", "model"),
        ("stpo", "stop"),
        ("sead", None),
        ("seedd", "seed"),
        ("guided_jsn", "guided_json"),
        ("metdata", "metadata"),
    ],
)
def test_misspelt_names(name: str, meant: str | None) -> None:
    assert Speller().suggest(name, KNOWN) == meant


@pytest.mark.parametrize(
    "name",
    ["a", "N", "no", "shop", "slot", "need", "test", "user2", "colour", "callback", "trace_id",
     "x" * 1000, "ünïcode", "template", "schema", "score", ""],
)  # fmt: skip
def test_other_names(name: str) -> None:
    assert Speller().suggest(name, KNOWN) is None


def test_only_so_many_names_are_compared() -> None:
    speller = Speller()
    found = [speller.suggest(f"colour{number}", KNOWN) for number in range(64)]
    assert set(found) == {None}
    assert speller.suggest("temprature", KNOWN) is None
