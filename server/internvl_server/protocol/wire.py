"""What all wire objects share."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["Wire"]

# More than any wire object has. Each unknown member is an error of its own, which takes time.
_MAX_MEMBERS = 64


class Wire(BaseModel):
    """What all wire objects share: no coercion between JSON types, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_num_members(cls, value: Any) -> Any:  # noqa: ANN401  (any JSON value)
        if isinstance(value, dict) and len(value) > _MAX_MEMBERS:
            raise PydanticCustomError(
                "too_many_members",
                "It has {count} members; at most {limit} are looked at",
                {"count": len(value), "limit": _MAX_MEMBERS},
            )
        return value
