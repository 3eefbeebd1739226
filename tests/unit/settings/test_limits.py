"""Limits of requests and connections: a number that no operator means prevents the start."""

import math

import pytest
from internvl_server.settings import LimitSettings, ServerSettings
from internvl_server.settings.section import Section
from pydantic import ValidationError

NUMBERS = [
    (type(section), name)
    for section in (LimitSettings(), ServerSettings())
    for name, value in section
    if type(value) in (int, float)
]
# 0 has a meaning: any port, no limit of answers, no wait.
MAY_BE_ZERO = {"metrics_port", "port", "default_max_tokens", "pre_drain_s"}


@pytest.mark.parametrize(("section", "name"), NUMBERS)
@pytest.mark.parametrize("value", [0, -1, 10**15, math.nan, math.inf, "x", None])
def test_absurd_limits_are_refused(section: type[Section], name: str, value: object) -> None:
    if value == 0 and name in MAY_BE_ZERO:
        section.model_validate({name: value})
        return
    with pytest.raises(ValidationError, match=name):
        section.model_validate({name: value})


def test_a_url_must_fit_in_a_head() -> None:
    with pytest.raises(ValidationError, match="max_url_bytes must not exceed max_head_bytes"):
        LimitSettings(max_head_bytes=4096)
    LimitSettings(max_head_bytes=4096, max_url_bytes=4096)


@pytest.mark.parametrize("host", ["", "a b", "https://x", "x:80", "x/", "*", "[x"])
def test_what_is_no_host_cannot_be_allowed(host: str) -> None:
    with pytest.raises(ValidationError, match="allowed_hosts"):
        ServerSettings(allowed_hosts=(host,))
