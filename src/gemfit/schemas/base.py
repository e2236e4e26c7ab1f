"""Base of all values in files and between processes: frozen, strict pydantic models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gemfit.core.regular_file import read_regular
from gemfit.errors import UserError

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Contract(BaseModel):
    """An immutable value with a JSON form; two equal values have the same digest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_json(self) -> str:
        """The value as indented JSON text, ending in a newline."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The value stored at ``path``; a missing or unreadable file is a ``UserError``."""
        try:
            return cls.model_validate_json(read_regular(path))
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the document"
            raise UserError(f"{path}: {where}: {first['msg']}; was it written by another version?") from None

    @property
    def digest(self) -> str:
        """BLAKE2b of the canonical JSON form, 32 hexadecimal digits."""
        return digest_json(self.model_dump(mode="json"))


def digest_json(value: object) -> str:
    """BLAKE2b-128 of ``value`` as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
