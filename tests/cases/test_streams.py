"""Options of streams that other servers have."""

import pytest

from tests.cases.asking import CaseServer, chat


def test_usage_in_each_chunk(server: CaseServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    reply = server.answer(chat("hi there", stream=True, stream_options=options))
    usages = [event["usage"] for event in reply.events]
    num_prompt = len(reply.request.prompt_token_ids)
    assert all(usage["prompt_tokens"] == num_prompt for usage in usages)
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts)
    assert counts[0] <= 1 <= counts[-1]
    assert all(u["total_tokens"] == num_prompt + u["completion_tokens"] for u in usages)
    plain = server.answer(chat("hi there", stream=True, stream_options={"include_usage": True}))
    last, whole = usages[-1], plain.events[-1]["usage"]
    for usage in (last, whole):
        del usage["prompt_tokens_details"]["cached_tokens"]  # the second prompt may be in the cache
    assert last == whole
    assert reply.text == plain.text


@pytest.mark.parametrize(
    "options",
    [
        None,
        {},
        {"include_usage": False},
        {"continuous_usage_stats": False},
        {"include_usage": True, "continuous_usage_stats": False},
        {"include_usage": None, "continuous_usage_stats": None},
    ],
    ids=str,
)
def test_without_it_chunks_have_no_usage(server: CaseServer, options: dict | None) -> None:
    reply = server.answer(chat(stream=True, stream_options=options))
    has_last = bool(options and options.get("include_usage"))
    assert all(not event.get("usage") for event in reply.events[: -1 if has_last else None])
    assert bool(reply.events[-1].get("usage")) is has_last
