"""The cases of the data files: requests, with the answers that are right.

A line is an object with an `id`, the right `status` (a list; null is a closed connection), optionally the
right `codes` of the error and the `param` that it names, and one of

- `image`: the URL of a picture in a chat request (`video`: of a video),
- `chat`: fields of a chat request,
- `post`: a path and a body: a JSON value, or `{"$text": …}`,
- `raw`: the bytes of a request, as text in latin-1,
- `request`: the same, complete.

`host` is what the host of `{host}` does with a connection (see `hosts.py`). `each` makes a line a family: a
case for every combination of its names' values, `«name»` being replaced in the whole line. `like` changes the
names: the answer must have the same control tokens as that request's. `dials`, `needs` and `slow` are the
last three attributes of `Case`. Generators are in `values.py`. `{host}`, `{auth}`, `{key}` and the places of
hosts (`{media}`, `{sentinel}`, …) are replaced when the ports are known.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bad_input.texts import text_of
from scripts.bad_input.values import body_of, filled, generated

__all__ = ["Case", "read_cases", "request_of", "shortened"]

_MODEL = "internvl-demo"
_CHAT = "/v1/chat/completions"
_PROMPT = "Describe the image."


@dataclass(frozen=True)
class Case:
    """One request and its right answers.

    Attributes:
        family: The id of the line that it comes from.
        data: The line, its names filled in.
        steps: What the media host does; None if the case has no host.
        like: The line of a request whose answer has the control tokens that this one's must have.
        dials: Addresses, other than the media host's, that the server may connect to.
        needs_namespace: It dials an address of the Internet.
        is_slow: It takes seconds.
    """

    id: str
    family: str
    status: tuple[int | None, ...]
    codes: tuple[str, ...]
    param: str | None
    data: Mapping[str, Any]
    steps: list[Any] | None = None
    like: Mapping[str, Any] | None = None
    dials: tuple[str, ...] = ()
    needs_namespace: bool = False
    is_slow: bool = False


def request_of(data: Mapping[str, Any]) -> str:
    """The request of a line in latin-1, made each time because some are large."""
    data = generated(data)
    if "request" in data:
        return str(data["request"])
    if "raw" in data:
        return text_of(data["raw"])
    if "post" in data:
        path, body = data["post"]
        return _post(path, body)
    if "chat" in data:
        return _post(_CHAT, _chat(_PROMPT) | data["chat"])
    kind = "image" if "image" in data else "video"
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": data[kind]}}
    if kind == "image":
        part["image_url"]["detail"] = "low"
    return _post(_CHAT, _chat([part, {"type": "text", "text": _PROMPT}]))


def read_cases(paths: Iterable[Path]) -> list[Case]:
    """The cases of files, in order.

    Raises:
        ValueError: Two cases have the same id.
    """
    cases = [case for path in paths for case in _cases_of(path)]
    ids = [case.id for case in cases]
    if twice := {one for one in ids if ids.count(one) > 1}:
        raise ValueError(f"several cases have the id {sorted(twice)[0]}")
    return cases


def shortened(cases: Iterable[Case], most: int) -> list[Case]:
    """At most so many cases of each family, spread over it, and no slow ones."""
    families: dict[str, list[Case]] = {}
    for case in cases:
        if not case.is_slow:
            families.setdefault(case.family, []).append(case)
    chosen = [family[:: -(-len(family) // most)] for family in families.values()]
    return [case for family in chosen for case in family]


def _cases_of(path: Path) -> Iterator[Case]:
    for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
        data = json.loads(line)
        each: Mapping[str, list[Any]] = data.pop("each", {})
        like = data.pop("like", None)
        for values in itertools.product(*each.values()):
            names = dict(zip(each, values, strict=True))
            yield _case(data, names, names | like if like else None)


def _case(
    data: Mapping[str, Any], names: Mapping[str, Any], like: Mapping[str, Any] | None
) -> Case:
    line = filled(data, names)
    return Case(
        id=line["id"],
        family=data["id"],
        status=tuple(line["status"]),
        codes=tuple(line.get("codes", ())),
        param=line.get("param"),
        data=line,
        steps=line.get("host"),
        like=None if like is None else filled(data, like),
        dials=tuple(line.get("dials", ())),
        needs_namespace=line.get("needs") == "namespace",
        is_slow=line.get("slow", False),
    )


def _chat(content: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": _MODEL, "messages": messages, "max_tokens": 1, "temperature": 0}


def _post(path: str, body: Any) -> str:
    """The length is replaced when the ports are known."""
    text = body if isinstance(body, str) else body_of(body)
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{{auth}}"
        f"Content-Length: {{length}}\r\nConnection: close\r\n\r\n{text}"
    )
