"""Admission and step planning, without a model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internvl_server.core import GenerateRequest, SamplingParams
from internvl_server.engine.cpu.scheduler import Prefill, Scheduler, Sequence, Step


def make_sequence(num_prompt=4, num_kv_tokens=8, *, needs_encoding=False):
    request = GenerateRequest("r", (1,) * num_prompt, 99, SamplingParams(), frozenset())
    return Sequence(request, num_kv_tokens, needs_encoding=needs_encoding)


def make_scheduler(max_num_seqs=4, max_kv_tokens=100, prefill_chunk_tokens=16):
    return Scheduler(
        max_num_seqs=max_num_seqs,
        max_kv_tokens=max_kv_tokens,
        prefill_chunk_tokens=prefill_chunk_tokens,
    )


def admitted(scheduler, *sequences):
    for sequence in sequences:
        scheduler.add(sequence)
    assert scheduler.admit() == list(sequences)
    return sequences


def test_slots_limit_what_runs():
    scheduler = make_scheduler(max_num_seqs=2)
    sequences = [make_sequence() for _ in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    assert scheduler.admit() == sequences[:2]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    scheduler.remove(sequences[0])
    assert scheduler.admit() == sequences[2:]


def test_a_large_request_holds_back_those_behind_it():
    scheduler = make_scheduler(max_kv_tokens=100)
    (first,) = admitted(scheduler, make_sequence(num_kv_tokens=60))
    large, small = make_sequence(num_kv_tokens=50), make_sequence(num_kv_tokens=1)
    scheduler.add(large)
    scheduler.add(small)
    assert scheduler.admit() == []
    scheduler.remove(first)
    assert scheduler.admit() == [large, small]


def test_removing_a_waiting_request_lets_the_next_one_in():
    scheduler = make_scheduler(max_kv_tokens=100)
    admitted(scheduler, make_sequence(num_kv_tokens=60))
    large, small = make_sequence(num_kv_tokens=50), make_sequence(num_kv_tokens=1)
    scheduler.add(large)
    scheduler.add(small)
    scheduler.remove(large)
    assert scheduler.admit() == [small]


def test_removing_twice_frees_once():
    scheduler = make_scheduler()
    first, _ = admitted(scheduler, make_sequence(), make_sequence())
    scheduler.remove(first)
    scheduler.remove(first)
    assert (scheduler.num_running, scheduler.num_kv_tokens) == (1, 8)


def test_a_request_that_can_never_fit_must_not_be_added():
    with pytest.raises(AssertionError):
        make_scheduler(max_kv_tokens=10).add(make_sequence(num_kv_tokens=11))


def test_one_chunk_of_prompts_is_read_oldest_first():
    scheduler = make_scheduler(prefill_chunk_tokens=16)
    long, short, last = admitted(
        scheduler, make_sequence(20, 30), make_sequence(5, 8), make_sequence(30, 40)
    )
    assert scheduler.plan() == Step(prefill=(Prefill(long, 16),))
    long.num_read_tokens = 16
    assert scheduler.plan() == Step(prefill=(Prefill(long, 4), Prefill(short, 5), Prefill(last, 7)))


def test_decoding_goes_on_beside_prefill_and_encoding():
    scheduler = make_scheduler(prefill_chunk_tokens=2)
    decoding, reading, encoding, _ = admitted(
        scheduler,
        make_sequence(),
        make_sequence(),
        make_sequence(needs_encoding=True),
        make_sequence(needs_encoding=True),
    )
    decoding.num_read_tokens = 4
    assert scheduler.plan() == Step((decoding,), (Prefill(reading, 2),), encoding)


def test_prompts_wait_for_their_images():
    scheduler = make_scheduler()
    image, text = admitted(scheduler, make_sequence(needs_encoding=True), make_sequence())
    assert scheduler.plan() == Step((), (Prefill(text, 4),), image)
    image.needs_encoding = False
    assert scheduler.plan() == Step((), (Prefill(image, 4), Prefill(text, 4)), None)


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.booleans()), max_size=20),
    choices=st.lists(st.integers(0, 99), max_size=60),
    max_num_seqs=st.integers(1, 5),
    chunk=st.integers(1, 17),
)
def test_bounds_hold_and_order_is_kept(sizes, choices, max_num_seqs, chunk):
    """Whatever joins, leaves and ends: the bounds hold, the order is kept, everything ends."""
    scheduler = make_scheduler(max_num_seqs, max_kv_tokens=80, prefill_chunk_tokens=chunk)
    coming = [make_sequence(p, p + n, needs_encoding=image) for p, n, image in sizes]
    arrived, started, left = [], [], []
    choices = iter(choices)

    for _ in range(10_000):
        choice = next(choices, 0)
        if coming and choice % 2 == 0:
            arrived.append(coming.pop(0))
            scheduler.add(arrived[-1])
        if arrived and choice > 80:
            left.append(arrived[choice % len(arrived)])
            scheduler.remove(left[-1])
        started += scheduler.admit()
        run_step(scheduler)

        assert scheduler.num_running <= max_num_seqs
        assert scheduler.num_kv_tokens == sum(s.num_kv_tokens for s in scheduler.running) <= 80
        if not coming and not scheduler.has_work:
            break
    assert not scheduler.has_work
    assert scheduler.num_kv_tokens == 0
    assert started == [s for s in arrived if s in started]
    assert {s for s in arrived if s not in started} <= set(left)


def run_step(scheduler):
    """What the worker does with a plan, without computing."""
    step = scheduler.plan()
    planned = [*step.decode, *(chunk.sequence for chunk in step.prefill)]
    assert len(planned) == len(set(planned))
    if step.encode is not None:
        assert step.encode not in planned
        step.encode.needs_encoding = False
    for chunk in step.prefill:
        assert 0 < chunk.num_tokens <= chunk.sequence.num_unread_tokens
        chunk.sequence.num_read_tokens += chunk.num_tokens
        if not chunk.sequence.num_unread_tokens:
            chunk.sequence.num_generated += 1
    for sequence in step.decode:
        sequence.num_generated += 1
    for sequence in scheduler.running:
        if sequence.num_generated == sequence.max_generated:
            scheduler.remove(sequence)
