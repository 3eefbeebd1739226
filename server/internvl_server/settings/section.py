"""The base class of all sections, and the number types they use."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PositiveFloat", "PositiveInt", "Section"]

# Larger numbers are mistakes: a terabyte, and a day in seconds.
PositiveInt = Annotated[int, Field(gt=0, le=1 << 40)]
PositiveFloat = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """A frozen table of settings that refuses unknown keys. Docstrings of fields are help texts."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )
