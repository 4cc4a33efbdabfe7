"""What every option is checked by: one clear error for each value that cannot be honoured, whatever its type."""

from __future__ import annotations

from .errors import BadOptionError


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `BadOptionError` unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise BadOptionError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def check_switch(name: str, value: object) -> None:
    """Raise `BadOptionError` unless `value` is a bool."""
    if not isinstance(value, bool):
        raise BadOptionError(f"{name} is {value!r}; choose True or False")


def check_number(name: str, value: object, low: int, high: int, zero: str = "automatic") -> None:
    """Raise `BadOptionError` unless `value` is an int from `low` to `high`, and nothing that merely converts to one:
    True, 256.0 and NumPy's numbers are mistakes more often. `zero` is what 0 means, where it is allowed."""
    if isinstance(value, int) and not isinstance(value, bool):
        if low <= value <= high:
            return
        kind = ""
    else:
        kind = f" ({type(value).__name__}, not int)"
    meaning = f" (0 = {zero})" if low == 0 else ""
    raise BadOptionError(f"{name} is {value!r}{kind}; choose a whole number from {low} to {high}{meaning}")


def check_factor(name: str, value: object, low: float, high: float) -> None:
    """Raise `BadOptionError` unless `value` is 0, which means off, or a number from `low` to `high`."""
    kind = f" ({type(value).__name__}, not a number)"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value == 0 or low <= value <= high:
            return
        kind = ""
    raise BadOptionError(f"{name} is {value!r}{kind}; choose a number from {low:g} to {high:g} (0 = off)")
