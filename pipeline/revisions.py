"""By which revisions of a model's profile a run computes."""

from __future__ import annotations

from ..storage.profiles import ModelProfile
from .fallback import FallbackChain
from .modes import ModeChooser


class Revisions:
    """Those of `profile`, for the run that `chain` belongs to. `numbers`: the one that it began with, and every one
    after it; none before `begin`."""

    def __init__(self, chain: FallbackChain, modes: ModeChooser, profile: ModelProfile) -> None:
        self._chain, self._modes, self._profile = chain, modes, profile
        self._compiled = self._compiled_now()
        self.numbers: list[int] = []

    def begin(self) -> None:
        """Note what the run computes by."""
        self.numbers = [self._modes.keep_choice(self._chain.now.mode, self._compiled)]

    def look(self) -> None:
        """Note what is compiled now: where that is other than before, it is another revision of what is known."""
        compiled = self._compiled_now()
        if compiled != self._compiled:
            self._compiled = compiled
            self.numbers.append(self._modes.keep_choice(self._chain.now.mode, compiled))

    def found_out(self) -> None:
        """Something was, before a picture was computed: no tile goes by the revision before."""
        self.numbers[-1:] = [self._profile.known.revision]

    def in_words(self) -> str:
        """For the report: "rev 7", "rev 7 to 8"."""
        return f"rev {' to '.join(map(str, dict.fromkeys([*self.numbers, *self._chain.revised])))}"

    def _compiled_now(self) -> list[str]:
        compiled = self._chain.now.compiled
        return compiled.told() if compiled else []
