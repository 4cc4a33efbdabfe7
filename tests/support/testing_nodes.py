"""Nodes that tests put beside ours into a real ComfyUI."""

from __future__ import annotations

# Nodes for what core's do not do: make pictures that are none, and a list of several sizes; look at a batch of none.
ODD_PICTURES = """
import torch


class OddPicture:
    CATEGORY, FUNCTION, RETURN_TYPES = "testing", "run", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "what": (["no frames", "no pixels", "nan", "five channels"],)}}

    def run(self, image, what):
        if what == "no frames":
            return (image[:0],)
        if what == "no pixels":
            return (image[:, :0],)
        if what == "nan":
            return (torch.full_like(image, float("nan")),)
        return (torch.cat((image, image[..., :2]), -1),)


class SeveralSizes(OddPicture):
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return ([image, image[:, :40, :60], image[:, :61, :33].repeat(2, 1, 1, 1)],)


class ShapeOf(SeveralSizes):
    RETURN_TYPES, OUTPUT_NODE, OUTPUT_IS_LIST = (), True, ()

    def run(self, image):
        return {"ui": {"text": [str(list(image.shape))]}, "result": ()}


NODE_CLASS_MAPPINGS = {"OddPicture": OddPicture, "SeveralSizes": SeveralSizes, "ShapeOf": ShapeOf}
"""

# Tells what tensors there are in the process that Python knows of, in bytes.
CENSUS = """
import gc

import torch
from aiohttp import web
from server import PromptServer


@PromptServer.instance.routes.get("/census")
async def census(request):
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return web.json_response({"bytes": sum(storages.values())})


NODE_CLASS_MAPPINGS = {}
"""

# Latents that core has no empty ones of, and a look at all that a latent has.
LATENTS = """
import json

import torch
from comfy.nested_tensor import NestedTensor


class OddLatent:
    CATEGORY, FUNCTION, RETURN_TYPES = "testing", "run", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"what": (["noise", "picture and sound"],), "batch": ("INT", {})}}

    def run(self, what, batch):
        samples = torch.randn(batch, 4, 64, 64, generator=torch.Generator().manual_seed(0))
        return ({"samples": samples if what == "noise" else NestedTensor((samples, torch.zeros(batch, 8, 2, 40)))},)


class AllOfLatent:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "testing", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",)}}

    def run(self, latent):
        samples = latent["samples"]
        told = {**latent, "samples": [str(samples.dtype), str(samples.device), *samples.shape]}
        return {"ui": {"text": [json.dumps(told, sort_keys=True)]}, "result": ()}


NODE_CLASS_MAPPINGS = {"OddLatent": OddLatent, "AllOfLatent": AllOfLatent}
"""
