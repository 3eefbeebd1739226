"""How native states and tensors are read that the stand-in loop does not make."""

from types import SimpleNamespace

import pytest
import torch
from internvl_server.engine.turbomind.requests.outputs import NativeOutputs, OutputReader
from lmdeploy.turbomind import _turbomind
from torch.utils.dlpack import from_dlpack

from tests.lmdeploy.native import FINISH, VOCABULARY
from tests.lmdeploy.requests import END, make_request

PROMPT = (1, 2, END)


def reader_of(states, answer, dtype=torch.int32, **request):
    """Of states, each a status and a length, and the tensors of a native request."""
    news = iter([SimpleNamespace(status=status, seq_len=length) for status, length in states])
    count = len(answer)
    native = {
        "output_ids": torch.tensor([*PROMPT, *answer]),
        "logprob_indexes": torch.tensor([answer]).T.expand(count, 2) + torch.arange(2),
        "logprob_nums": torch.full((count,), 2),
    }
    tensors = {
        name: from_dlpack(_turbomind.from_dlpack(tensor.to(dtype).contiguous()))
        for name, tensor in native.items()
    }
    tensors["logprob_vals"] = torch.tensor([[-0.5, -1.5]]).expand(count, 2)
    outputs = NativeOutputs(lambda: next(news), None, tensors)
    return OutputReader(make_request(PROMPT, **request), outputs, VOCABULARY, {})


def pieces(reader):
    found = []
    while not reader.has_ended:
        delta = reader.read()
        found.append(delta and (delta.token_ids, delta.finish_reason))
    return found


@pytest.mark.parametrize(("answer", "reason"), [((65, END), "stop"), ((65, 66), "length")])
def test_an_end_may_come_after_the_last_token(answer, reason):
    """LMDeploy's own loop expects it, too."""
    assert pieces(reader_of([(0, 5), (FINISH, 5)], answer)) == [(answer, None), ((), reason)]


def test_an_end_without_a_token_is_not_the_prompts_stop_token():
    assert pieces(reader_of([(FINISH, 3)], (65,))) == [((), "length")]


def test_a_state_without_a_new_token_is_no_news():
    states = [(0, 3), (0, 4), (0, 4), (FINISH, 5)]
    assert pieces(reader_of(states, (65, END))) == [None, ((65,), None), None, ((END,), "stop")]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint32])
def test_native_numbers_may_be_unsigned(dtype):
    """LMDeploy's own reader takes either."""
    delta = reader_of([(FINISH, 5)], (65, END), dtype, num_logprobs=2).read()
    assert delta.token_ids == (65, END)
    assert [entry.top for entry in delta.logprobs] == [
        ((65, -0.5), (66, -1.5)), ((END, -0.5), (END + 1, -1.5)),
    ]  # fmt: skip
