import pytest
from hypothesis import given
from hypothesis import strategies as st
from internvl_server.concurrency.budget import Budget


class FullError(Exception):
    pass


def new_budget(limit: int) -> Budget:
    return Budget(limit, FullError)


@given(changes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8))))
def test_the_limit_holds_and_permits_add_up(changes: list[tuple[int, int]]) -> None:
    budget = new_budget(10)
    permits = [budget.reserve(0) for _ in range(4)]
    amounts = [0, 0, 0, 0]
    for index, amount in changes:
        others = sum(amounts) - amounts[index]
        if others + amount > 10:
            with pytest.raises(FullError):
                permits[index].resize(amount)
        else:
            permits[index].resize(amount)
            amounts[index] = amount
        assert [permit.amount for permit in permits] == amounts
        assert budget.in_use == sum(amounts) <= 10


def test_a_permit_is_released_once_however_its_context_ends() -> None:
    budget = new_budget(3)
    with budget.reserve(2) as permit:
        assert budget.in_use == 2
    with pytest.raises(KeyError), budget.reserve(2):
        {}.popitem()
    permit.release()
    assert budget.in_use == 0


def test_a_refusal_names_what_is_in_use_and_reserves_nothing() -> None:
    budget = new_budget(3)
    budget.reserve(2)
    with pytest.raises(FullError) as refused:
        budget.reserve(2)
    assert refused.value.args == (2,)
    assert budget.in_use == 2
    assert budget.reserve(0).amount == 0
