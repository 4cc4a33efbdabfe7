"""What can be wrong with a model file, said without the file's name: whoever opened the file knows it."""


def shown(name: object, most: int = 80) -> str:
    """A name out of a file for a message: of `most` characters, and without what a terminal would obey."""
    text = ascii(name)[1:-1] if isinstance(name, str) else ascii(name)
    return text if len(text) <= most else f"{text[:most]}..."


class DamagedError(ValueError):
    """It is cut short, altered, or contradicts itself."""


class RefusedError(ValueError):
    """It is whole, but not of a kind that is read; the message says what it is and what to use instead."""


class ForbiddenNameError(RefusedError):
    """A pickle that names something else than weights are made of, which unpickling would call."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"holds more than weights: loading it would run {shown(name)}. It was refused and nothing was run; "
            "use a .safetensors file or a state dict of this model"
        )
