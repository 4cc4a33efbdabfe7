"""How many floating point operations a model's forward takes, by its layers."""

from __future__ import annotations

from spandrel import ImageModelDescriptor

from ..kernels.layers import layers_of
from .known_fields import is_spandrels

# By spandrel's ids: those whose count here is within a hundredth of torch's own (`FlopCounterMode`). Others have layers
# that are not counted, or count as larger than they are: a number that is wrong is none.
_COUNTED = ("Compact", "ESRGAN", "HAT", "SAFMN", "SPAN", "SwinIR")


def operations_per_pixel(descriptor: ImageModelDescriptor) -> float | None:
    """For a pixel of its input, of convolutions, linear layers and attention, two for a multiplication with its
    addition; None where nobody has compared that with a count. Takes milliseconds."""
    if descriptor.architecture.id not in _COUNTED or not is_spandrels(descriptor):
        return None
    layers = layers_of(descriptor.model, descriptor.scale)
    return 2 * sum(kind.multiplications * pixels for kind, pixels in layers.items())
