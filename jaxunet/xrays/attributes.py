"""What a DICOM header says of its first frame, where attributes may be empty, short, or in functional groups."""

from collections.abc import Iterator
from typing import Any

from jaxunet.core.errors import UserError

_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_LARGEST_GROUPS = 16 * 2**20  # bytes


class Attributes:
    """Looks attributes up by keyword: what is said of the first frame comes before what is said of the whole."""

    def __init__(self, header: Any):
        """`header` is a pydicom Dataset."""
        self._places = [*_functional_groups(header), header]

    def get(self, name: str) -> Any:
        """The first value of this name that is not empty, or None."""
        for place in self._places:
            value = place.get(name)
            if value is not None and value != "" and not (hasattr(value, "__len__") and len(value) == 0):
                return value
        return None

    def texts(self, name: str) -> list[str]:
        """Its values in capitals, without spaces around them."""
        value = self.get(name)
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        return [str(x).strip(" \0").upper() for x in values if x is not None]

    def text(self, name: str) -> str:
        """The first of `texts`, or ""."""
        return next(iter(self.texts(name)), "")

    def numbers(self, name: str) -> list[float]:
        """Its values, without those that are empty. Raises ValueError if one is no number."""
        return [float(text) for text in self.texts(name) if text]

    def number(self, name: str, default: float) -> float:
        """The first of `numbers`, or the default."""
        return next(iter(self.numbers(name)), default)

    def count(self, name: str, default: int) -> int:
        """`number` as a whole number. Raises UserError if it is not one."""
        number = self.number(name, default)
        if not (0 <= number < 2**32 and number == int(number)):
            raise UserError(f"it is damaged: its {name} is not a whole number.")
        return int(number)

    def items(self, name: str) -> list[Any]:
        """The items of a sequence that have anything in them."""
        value = self.get(name)
        return [item for item in value if len(item)] if hasattr(value, "__iter__") else []


def _functional_groups(header: Any) -> Iterator[Any]:
    for name in _GROUPS:
        if name not in header:
            continue
        raw = getattr(header.get_item(name), "value", None)
        if isinstance(raw, bytes) and len(raw) > _LARGEST_GROUPS:
            raise UserError("its functional groups take more bytes than those of any X-ray.")
        groups = header.get(name)
        for element in groups[0] if groups else ():
            if element.VR == "SQ" and element.value:
                yield element.value[0]
