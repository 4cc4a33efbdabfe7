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
