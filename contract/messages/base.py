"""The base of all messages and the field types they share."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Encoding = Literal["json", "cbor"]

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
"""A short reason or state; counted, so it comes from a closed set at its source."""

Text = Annotated[str, Field(max_length=400)]
"""One line for a person."""

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Micros = Annotated[int, Field(ge=0, le=2**62)]
"""Microseconds since the epoch (packet time) or a duration in microseconds."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Real = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """A frozen message; an unknown field is an error.

    Class attributes
    ----------------
    encoding
        ``cbor`` between machines, ``json`` where people or other tools read.
    max_bytes
        Largest encoded size that is accepted.
    """

    # Validators are built at first use: a device needs half of them, and all of them take 8 MB.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants", defer_build=True)

    encoding: ClassVar[Encoding] = "cbor"
    max_bytes: ClassVar[int] = 65_536
