"""Everything reserved is returned, no limit is exceeded, clients take turns, and nobody waits for ever."""

import asyncio
import itertools
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from internvl_server.concurrency.caller import Caller, Clients, current_caller
from internvl_server.concurrency.sharing import Share, SharedBudget
from internvl_server.errors import EngineOverloadedError

T = TypeVar("T")

LIMITS = (10, 6)
NAMES = st.sampled_from("abc")
AMOUNTS = st.tuples(st.integers(0, 12), st.integers(0, 8))


@contextmanager
def calling(client: str) -> Iterator[None]:
    token = current_caller.set(Caller(client))
    yield
    current_caller.reset(token)


def task_of(client: str, work: Awaitable[T]) -> "asyncio.Task[T]":
    async def run() -> T:
        return await work

    with calling(client):
        return asyncio.ensure_future(run())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class BudgetMachine(RuleBasedStateMachine):
    """Random reservations, growth, shrinking, releases and cancellations by three clients."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clients = Clients(0.5)
        self.budget = SharedBudget(*LIMITS, refusal="full", clients=self.clients)
        self.waiting: list[asyncio.Task[Share]] = []
        self.held: list[Share] = []

    def teardown(self) -> None:
        self.loop.run_until_complete(self.drain())
        self.loop.close()

    async def drain(self) -> None:
        """Whoever ends makes room, until nobody waits: nothing is lost, and nothing starves."""
        while self.held or self.waiting:
            assert self.held, "they wait for room that is free"
            self.held.pop().release()
            await self.collect()
        assert self.budget.in_use == (0, 0)
        assert self.budget.num_waiting == 0

    async def collect(self) -> None:
        await settle()
        for task in [task for task in self.waiting if task.done()]:
            self.waiting.remove(task)
            self.held.append(task.result())

    def run(self, work: Awaitable[Any]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @rule(client=NAMES, amounts=AMOUNTS, cost=st.integers(1, 50))
    def reserve(self, client: str, amounts: tuple[int, int], cost: int) -> None:
        async def start() -> None:
            self.clients.enter(client)
            self.waiting.append(task_of(client, self.budget.reserve(*amounts, cost=cost)))
            await self.collect()

        self.run(start())

    @rule(client=NAMES, amounts=AMOUNTS)
    def reserve_now(self, client: str, amounts: tuple[int, int]) -> None:
        with calling(client), suppress(EngineOverloadedError):
            self.held.append(self.budget.reserve_now(*amounts))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), amounts=AMOUNTS)
    def resize(self, data: st.DataObject, amounts: tuple[int, int]) -> None:
        share = data.draw(st.sampled_from(self.held))
        before = share.amounts
        try:
            share.resize(*amounts)
        except EngineOverloadedError:
            assert share.amounts == before
        self.run(self.collect())

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        share = data.draw(st.sampled_from(self.held))
        self.held.remove(share)
        share.release()
        share.release()
        self.run(self.collect())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(task)
        task.cancel()
        self.run(self.collect())

    @precondition(lambda self: self.waiting and self.held)
    @rule(data=st.data())
    def cancel_what_is_being_granted(self, data: st.DataObject) -> None:
        """Its turn comes and it leaves, before its task has run again."""
        task = data.draw(st.sampled_from(self.waiting))
        share = data.draw(st.sampled_from(self.held))
        self.held.remove(share)
        self.waiting.remove(task)
        share.release()
        task.cancel()
        self.run(self.collect())

    @invariant()
    def the_limits_hold_and_the_amounts_add_up(self) -> None:
        totals = tuple(sum(s.amounts[kind] for s in self.held) for kind in range(len(LIMITS)))
        assert self.budget.in_use == totals
        assert all(map(int.__le__, totals, LIMITS))
        assert self.budget.num_waiting == len(self.waiting)


BudgetMachine.TestCase.settings = hypothesis_settings(max_examples=60, deadline=None)
TestInterleavings = BudgetMachine.TestCase


async def test_clients_take_turns_by_what_they_were_given() -> None:
    budget = SharedBudget(1, refusal="full")
    order: list[str] = []

    async def work(client: str, cost: int) -> None:
        with await budget.reserve(1, cost=cost):
            order.append(client)
            await asyncio.sleep(0)

    flood = [task_of("flood", work("flood", 10)) for _ in range(30)]
    await settle()
    other = [task_of("other", work("other", 30)) for _ in range(5)]
    await asyncio.gather(*flood, *other)
    # Six have run before the other client comes; then one of its requests counts as three.
    turns = [len(list(group)) for name, group in itertools.groupby(order) if name == "flood"]
    assert order.index("other") < 10
    assert all(2 <= turn <= 4 for turn in turns[1:-1])


async def test_a_client_keeps_its_order_and_nobody_overtakes_a_large_request() -> None:
    budget = SharedBudget(4, refusal="full")
    order: list[int] = []

    async def work(number: int, amount: int) -> None:
        with await budget.reserve(amount):
            order.append(number)
            await asyncio.sleep(0)

    first = budget.reserve_now(1)
    tasks = [asyncio.ensure_future(work(n, amount)) for n, amount in enumerate((4, 1, 1))]
    await settle()
    assert order == []
    first.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


@pytest.mark.parametrize(("others", "num_granted"), [(0, 8), (1, 4)])
async def test_a_client_holds_its_share_while_others_are_active(
    others: int, num_granted: int
) -> None:
    clients = Clients(0.5)
    budget = SharedBudget(8, refusal="full", clients=clients)
    for number in range(others):
        clients.enter(f"other-{number}")
    clients.enter("flood")
    tasks = [task_of("flood", budget.reserve(1)) for _ in range(20)]
    await settle()
    granted = [task.result() for task in tasks if task.done()]
    assert len(granted) == num_granted
    if others:  # the rest of the budget is theirs, although others wait
        with calling("other-0"):
            budget.reserve_now(4).release()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for share in granted:
        share.release()
    assert budget.in_use == (0,)


async def test_a_client_is_active_for_some_time_after_its_last_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients = Clients(0.25)
    clients.enter("a")
    clients.enter("b")
    a = Caller("a")
    assert (clients.share(a), clients.num_active("a")) == (0.25, 2)
    clients.leave("b")
    assert clients.share(a) == 0.25
    monkeypatch.setattr("internvl_server.concurrency.caller._ACTIVE_S", 0.0)
    assert (clients.share(a), clients.num_active("a")) == (1.0, 1)
    assert clients.share(Caller("a", max_share=0.1)) == 0.1


async def test_what_waits_too_long_is_refused_and_holds_nobody_up() -> None:
    budget = SharedBudget(4, refusal="full", wait_s=0.05)
    held = budget.reserve_now(1)
    large = asyncio.ensure_future(budget.reserve(4))
    await settle()
    small = asyncio.ensure_future(budget.reserve(1))
    with pytest.raises(EngineOverloadedError):
        await large
    with pytest.raises(EngineOverloadedError):
        budget.reserve_now(4)
    (await small).release()
    held.release()
    assert (budget.in_use, budget.num_waiting) == ((0,), 0)


async def test_the_time_to_retry_follows_from_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("internvl_server.concurrency.sharing.time.monotonic", lambda: now)
    budget = SharedBudget(2, refusal="full")
    shares = [budget.reserve_now(1), budget.reserve_now(1)]
    assert budget.refused().retry_after_s == 1  # nothing is known
    for _ in range(4):  # one request in two seconds
        now += 2
        shares.pop(0).release()
        shares.append(budget.reserve_now(1))
    expected = 1 + 6 / 4
    assert expected <= budget.refused().retry_after_s <= 1 + 1.5 * 6 / 4 + 1
    waiting = [asyncio.ensure_future(budget.reserve(1)) for _ in range(9)]
    await settle()
    assert 16 <= budget.refused().retry_after_s <= 25
    now += 1000
    assert budget.refused().retry_after_s == 30
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_lull_does_not_count_as_a_slow_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("internvl_server.concurrency.sharing.time.monotonic", lambda: now)
    budget = SharedBudget(3, refusal="full")
    long = budget.reserve_now(1)
    for _ in range(4):
        short = budget.reserve_now(1)
        now += 0.1
        short.release()
    now += 100
    others = [budget.reserve_now(1), budget.reserve_now(1)]
    now += 0.5
    # The pace is that of the full budget: three requests, none of which has taken less than half a second.
    assert budget.interval_s == pytest.approx(0.5 / 3)
    for share in (long, *others):
        share.release()


async def test_an_amount_over_the_limit_is_granted_alone() -> None:
    budget = SharedBudget(3, refusal="full")
    with budget.reserve_now(1), pytest.raises(EngineOverloadedError):
        budget.reserve_now(5)
    with budget.reserve_now(5) as share:
        assert share.amounts == (3,)
        with pytest.raises(EngineOverloadedError):
            budget.reserve_now(1)
    assert budget.in_use == (0,)


async def test_a_share_grows_while_it_keeps_what_it_has() -> None:
    budget = SharedBudget(4, refusal="full", wait_s=0.05)
    share, other = budget.reserve_now(2), budget.reserve_now(1)
    with pytest.raises(EngineOverloadedError):
        await share.enlarge(4)
    assert share.amounts == (2,)
    budget.wait_s = 60
    growing = asyncio.ensure_future(share.enlarge(4))
    await settle()
    other.release()
    await growing
    assert share.amounts == (4,)


@pytest.mark.parametrize("client", ["a", "b"])
async def test_what_others_may_wait_for_is_granted_first(client: str) -> None:
    budget = SharedBudget(10, 6, refusal="full")
    with calling("a"):
        growing, other = budget.reserve_now(8, 0), budget.reserve_now(0, 6)
    large = task_of(client, budget.reserve(10, 1))
    await settle()
    grown = asyncio.ensure_future(growing.enlarge(8, 3))
    await settle()
    other.release()
    async with asyncio.timeout(60):
        await grown
        growing.release()
        (await large).release()
    assert budget.in_use == (0, 0)
