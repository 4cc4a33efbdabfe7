"""A latent upscaler as the engine takes models: spandrel's description of one, of values that have no limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from spandrel import Architecture, ImageModelDescriptor, ModelTiling, SizeRequirements
from torch import Tensor, nn

from ..api.errors import BadModelError
from ..api.samples import Samples
from ..api.upstream import give_network
from ..models.receptive_field import ReceptiveField
from .any_scale import Canvas, OnCanvas, squares_of

_NOT_FOR_CORE = (
    "this latent upscaler is for Upscale Latent CUDAspeed; ComfyUI's own nodes take only those of LTXV or Hunyuan"
)
LATENT = "latent"
"""What the ids of the families begin with, where spandrel's have the names of architectures."""
_SCALES_KEPT = 4  # each with what is known of the model there, and the engine's copy

Family = Literal["DAT", "CRAFT", "SwinFIR", "DRCT", "DRCTFIR", "SD-Latent-Upscaler", "NNLatentUpscale", "SesquiLSR"]


@dataclass(frozen=True)
class LatentTraits:
    """What a latent upscaler is.

    `scales`: the least and the greatest that it enlarges by; one number twice where there is no other. The sides of
    what it is given are multiples of `divisor`, and `minimum` at least. `whole`: each value of a result depends on all
    of the input, so that tiles put together are something else. `sized`: the network is told the size of the result.
    `looks`: so many values of a latent away a cut is seen, as far as that matters, and `looks_enlarged` of the result.
    `factor`: latents are multiplied by it before, and divided afterwards. `base`: what its file's name says that it is
    for, "" where that says nothing.
    """

    family: Family
    channels: int = 4
    scales: tuple[float, float] = (2, 2)
    divisor: int = 1
    minimum: int = 1
    whole: bool = False
    sized: bool = False
    looks: int = 16
    looks_enlarged: int = 0
    factor: float = 1.0
    base: str = ""

    @property
    def fixed(self) -> bool:
        """There is one scale."""
        return self.scales[0] == self.scales[1]


class LatentModel(ImageModelDescriptor[nn.Module]):
    """A network for raw VAE latents [N, C, h, w] of its `traits`; in ComfyUI a LATENT_UPSCALE_MODEL.

    To the engine it enlarges by `scale`: the greatest of its own where that is a whole number, and 2 elsewhere. Other
    scales have a model of their own, `at_scale`. What spandrel's description does when it is called, clamping to 0..1,
    is of no use here.
    """

    def __init__(self, network: nn.Module, traits: LatentTraits, scale: int | None = None) -> None:
        scale = scale or (int(traits.scales[1]) if float(traits.scales[1]).is_integer() else 2)
        super().__init__(
            nn.Identity(),  # until the network is, which has its weights already
            {},
            _Named(traits.family),
            "SR",
            [],
            supports_half=False,  # nobody tried whether fp16 is exact enough for what raw latents add up to
            supports_bfloat16=True,
            scale=scale,
            input_channels=traits.channels,
            output_channels=traits.channels,
            size_requirements=SizeRequirements(minimum=traits.minimum, multiple_of=traits.divisor),
            tiling=ModelTiling.DISCOURAGED if traits.whole else ModelTiling.SUPPORTED,
            call_fn=_call_of(traits, scale),
        )
        give_network(self, network)
        self.traits = traits
        self.samples = Samples(limits=None, deviation=_DEVIATIONS[traits.channels])
        self._at_scale: dict[tuple[float, Canvas | None], LatentModel] = {}

    @property
    def receptive_field(self) -> ReceptiveField:
        """For the overlap of a first run, in pixels of what the engine is given; later ones know it by measuring."""
        latent, result = self.traits.looks, self.traits.looks_enlarged
        network = self.model
        pixels = latent * network.scale + result if isinstance(network, OnCanvas) else latent + result / self.scale
        return ReceptiveField(math.ceil(pixels), unbounded=self.traits.whole)

    @property
    def load_device(self) -> object:
        """What ComfyUI's own node for LTXV's upsamplers asks of a model. Raises `BadModelError`: this is none."""
        raise BadModelError(_NOT_FOR_CORE)

    def resample_latent(self, latent: object) -> object:
        """The same, of its node for Hunyuan's."""
        raise BadModelError(_NOT_FOR_CORE)

    def at_scale(self, scale: float, canvas: Canvas | None = None) -> LatentModel:
        """The model that enlarges by `scale`: this one where that is its own, else one that the engine takes for one of
        scale 1, for what a `canvas` makes of latents. The same one each time, for what is known of it."""
        if scale == self.scale:
            return self
        key = scale, None if canvas is None or canvas.filled else canvas
        if key not in self._at_scale:
            if len(self._at_scale) >= _SCALES_KEPT:
                del self._at_scale[next(iter(self._at_scale))]
            ratio = squares_of(scale)
            divisor = math.lcm(self.traits.divisor, ratio.numerator) if ratio else self.traits.divisor
            network = OnCanvas(self.model, scale, self.traits.sized, key[1])
            self._at_scale[key] = LatentModel(network, replace(self.traits, divisor=divisor), 1)
        return self._at_scale[key]


def _call_of(traits: LatentTraits, scale: int) -> Callable[[nn.Module, Tensor], Tensor]:
    """How the network is called for what the engine has, [N, C, h, w]."""

    def call(network: nn.Module, latents: Tensor) -> Tensor:
        if not traits.sized or isinstance(network, OnCanvas):
            return network(latents)
        return network(latents, (latents.shape[2] * scale, latents.shape[3] * scale))

    def multiplied(network: nn.Module, latents: Tensor) -> Tensor:
        return call(network, latents * traits.factor) / traits.factor

    return call if traits.factor == 1 else multiplied


# Of raw latents, by their channels: one over the scaling factors that their models are trained with (SD 1.5 0.18215,
# SDXL 0.13025, Flux 0.3611, in the configurations of their autoencoders).
_DEVIATIONS = {4: 6.0, 16: 2.8, 32: 1.0}


class _Named(Architecture[nn.Module]):
    """An architecture that spandrel does not know: it has a name."""

    def __init__(self, family: Family) -> None:
        super().__init__(id=f"{LATENT} {family}", name=family, detect=lambda _: False)

    def load(self, state_dict: Mapping[str, Tensor]) -> ImageModelDescriptor[nn.Module]:
        raise NotImplementedError(f"{self.name} is read by latents/loader.py")
