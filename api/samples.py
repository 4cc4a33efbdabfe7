"""What the values of a frame are: a picture's, from black to white, or a latent's, which have no ends."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

_DEVIATIONS = 6.0  # that a latent's values cover, about as many as lie between a photograph's black and white


@dataclass(frozen=True)
class Samples:
    """`limits`: what all values of a result lie within, (0, 1) of pictures; None where they may be any number.
    `deviation`: the standard deviation that inputs without limits have, roughly: what is made up for a trial has it."""

    limits: tuple[float, float] | None = (0.0, 1.0)
    deviation: float = 1.0

    def inside(self, values: Tensor) -> Tensor:
        """A copy of `values`, within the limits."""
        return values.clamp(*self.limits) if self.limits else values.clone()

    def from_picture(self, picture: Tensor) -> Tensor:
        """Values of this kind, as various as those of `picture`, 0..1."""
        return picture if self.limits else (picture - 0.5) * (_DEVIATIONS * self.deviation)

    def as_picture(self, values: Tensor, mean: Tensor | float = 0.0, deviation: Tensor | float | None = None) -> Tensor:
        """What is to be judged as if it were a picture of 0..1: pictures within it, latents of about this `mean` and
        standard `deviation` (None: the usual one) mostly."""
        if self.limits:
            return values.clamp(*self.limits)
        return (values - mean) / (_DEVIATIONS * (self.deviation if deviation is None else deviation)) + 0.5


PICTURES = Samples()
