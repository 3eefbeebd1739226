"""Runs a Jinja template that comes with a checkpoint, with bounds on what it may do and how much.

The sandbox of Jinja keeps a template from Python's internals, but not from computing without an end: its
loops may be nested. Here the items of loops, the calls, and the sizes of what is multiplied or filtered are
counted together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["BoundedSandbox", "TemplateLimitError", "render"]

# Conversations of 1,024 messages take a few thousand steps; a million takes about a second.
_MAX_STEPS = 1_000_000
_MAX_CHARS = 16 << 20
_BITS_PER_STEP = 64
_STEPS_PER_CALL = 10  # of a macro, for example


class TemplateLimitError(TemplateError):
    """A template does too much."""


class _Steps:
    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise TemplateLimitError("the template takes too many steps")


_steps: ContextVar[_Steps] = ContextVar("_steps")


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """An environment for templates that are not trusted to end."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True)
        self.items_of_loop = _items
        self.filters = {name: _counted(call) for name, call in self.filters.items()}

    def bounded(self, source: str) -> Template:
        """A template whose loops are counted.

        Raises:
            TemplateError: It is not valid Jinja.
        """
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            # An attribute of the environment, which no template can name or replace.
            counted = nodes.EnvironmentAttribute("items_of_loop")
            items = nodes.Call(counted, [loop.iter], [], None, None)
            loop.iter = items.set_lineno(loop.lineno).set_environment(self)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Called for each call in a template."""
        _steps.get().take(_STEPS_PER_CALL)
        if isinstance(obj, LoopContext) and args:  # a level of a recursive loop
            args = (_items(args[0]), *args[1:])
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Called for each `*` and `**` in a template."""
        _steps.get().take(_size_of_product(operator, left, right))
        return super().call_binop(context, operator, left, right)


def render(template: Template, variables: Mapping[str, object]) -> str:
    """Render a template of a `BoundedSandbox`.

    Raises:
        TemplateLimitError: It does too much.
    """
    token = _steps.set(_Steps())
    try:
        return "".join(_pieces(template, variables))
    except RecursionError as err:
        raise TemplateLimitError("the template calls itself without an end") from err
    finally:
        _steps.reset(token)


def _pieces(template: Template, variables: Mapping[str, object]) -> Iterator[str]:
    num_chars = 0
    for piece in template.generate(variables):
        num_chars += len(piece)
        if num_chars > _MAX_CHARS:
            raise TemplateLimitError("the template writes too much")
        yield piece


def _items(values: Iterable[Any]) -> Iterator[Any]:
    steps = _steps.get()
    for value in values:
        steps.take(1)
        yield value


def _counted(call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts the sizes of its arguments, which may be ranges, as it may visit all of them."""

    @wraps(call)
    def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        _steps.get().take(sum(len(arg) for arg in args if isinstance(arg, Sized)))
        return call(*args, **kwargs)

    return counted


def _size_of_product(operator: str, left: Any, right: Any) -> int:  # noqa: ANN401
    if isinstance(left, int) and isinstance(right, int):
        factor = right if operator == "**" else 1
        bits = left.bit_length() * max(factor, 1) + right.bit_length()
        return bits // _BITS_PER_STEP
    for sized, count in ((left, right), (right, left)):
        if isinstance(sized, Sized) and isinstance(count, int):
            return len(sized) * max(count, 0)
    return 1
