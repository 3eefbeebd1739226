"""Limits of media: a number that no operator means prevents the start."""

import math

import pytest
from internvl_server.settings import MediaSettings
from pydantic import ValidationError

NUMBERS = [name for name, value in MediaSettings() if type(value) in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, 10**15, math.nan, math.inf])
def test_absurd_limits_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        MediaSettings.model_validate({name: value})


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_ports_exist(port: int) -> None:
    with pytest.raises(ValidationError, match="allowed_ports"):
        MediaSettings.model_validate({"allowed_ports": [port]})
