"""A checkpoint of SD 1.5 for ComfyUI's own loader, no larger than the format allows: it makes noise of noise.

ComfyUI tells a checkpoint by its UNet's width and that of its text, so these are SD 1.5's. The rest is as small as can
be: a UNet of one level, which has one block on its way down and two on its way up, and the decoder of TAESD in place of
the autoencoder. CLIP's text encoder has one size, which is most of the file. Weights are random with a fixed seed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

_WIDTH, _TEXT = 320, 768
_TIME = 4 * _WIDTH
_TOKENS, _LENGTH, _LAYERS = 49408, 77, 12  # CLIP-L's


def write_checkpoint(path: Path) -> None:
    """As safetensors in fp16, 270 MB."""
    shapes = {
        **_within("model.diffusion_model", _unet()),
        **_within("cond_stage_model.transformer.text_model", _text_encoder()),
        **_within("first_stage_model.taesd_decoder", _decoder()),
    }
    generator = torch.Generator().manual_seed(0)
    save_file({name: _random(name, shape, generator).half() for name, shape in shapes.items()}, path)


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Such as keep what goes through them at about its size; norms as they begin."""
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    values = torch.randn(shape, generator=generator)
    return values * (0.02 if "embedding" in name else values[0].numel() ** -0.5)


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def _convolution(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Shapes:
    return _layer(name, outputs, inputs, 3, 3, bias=bias)


def _within(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def _unet() -> Shapes:
    return {
        **_layer("time_embed.0", _TIME, _WIDTH),
        **_layer("time_embed.2", _TIME, _TIME),
        **_convolution("input_blocks.0.0", 4, _WIDTH),
        **_within("input_blocks.1.0", _block(_WIDTH)),
        **_within("input_blocks.1.1", _transformer()),
        **_within("output_blocks.0.0", _block(2 * _WIDTH)),
        **_within("output_blocks.1.0", _block(2 * _WIDTH)),
        **_layer("out.0", _WIDTH),
        **_convolution("out.2", _WIDTH, 4),
    }


def _block(inputs: int) -> Shapes:
    return {
        **_layer("in_layers.0", inputs),
        **_convolution("in_layers.2", inputs, _WIDTH),
        **_layer("emb_layers.1", _WIDTH, _TIME),
        **_layer("out_layers.0", _WIDTH),
        **_convolution("out_layers.3", _WIDTH, _WIDTH),
        **({} if inputs == _WIDTH else _layer("skip_connection", _WIDTH, inputs, 1, 1)),
    }


def _transformer() -> Shapes:
    within: Shapes = {
        **_layer("ff.net.0.proj", 8 * _WIDTH, _WIDTH),
        **_layer("ff.net.2", _WIDTH, 4 * _WIDTH),
    }
    for attention, seen in (("attn1", _WIDTH), ("attn2", _TEXT)):
        within |= _layer(f"{attention}.to_q", _WIDTH, _WIDTH, bias=False)
        within |= _layer(f"{attention}.to_k", _WIDTH, seen, bias=False)
        within |= _layer(f"{attention}.to_v", _WIDTH, seen, bias=False)
        within |= _layer(f"{attention}.to_out.0", _WIDTH, _WIDTH)
    for norm in ("norm1", "norm2", "norm3"):
        within |= _layer(norm, _WIDTH)
    return {
        **_layer("norm", _WIDTH),
        **_layer("proj_in", _WIDTH, _WIDTH, 1, 1),
        **_within("transformer_blocks.0", within),
        **_layer("proj_out", _WIDTH, _WIDTH, 1, 1),
    }


def _text_encoder() -> Shapes:
    layer: Shapes = {**_layer("mlp.fc1", 4 * _TEXT, _TEXT), **_layer("mlp.fc2", _TEXT, 4 * _TEXT)}
    for part in ("q", "k", "v", "out"):
        layer |= _layer(f"self_attn.{part}_proj", _TEXT, _TEXT)
    for norm in ("layer_norm1", "layer_norm2"):
        layer |= _layer(norm, _TEXT)
    shapes: Shapes = {
        **_layer("embeddings.token_embedding", _TOKENS, _TEXT, bias=False),
        **_layer("embeddings.position_embedding", _LENGTH, _TEXT, bias=False),
        **_layer("final_layer_norm", _TEXT),
    }
    for place in range(_LAYERS):
        shapes |= _within(f"encoder.layers.{place}", layer)
    return shapes


def _decoder() -> Shapes:
    """TAESD's, whose other places hold nothing: what makes it twice as large, and ReLUs."""
    shapes: Shapes = {**_convolution("1", 4, 64), **_convolution("19", 64, 3)}
    for place in (7, 12, 17):
        shapes |= _convolution(str(place), 64, 64, bias=False)
    for block in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        for place in (0, 2, 4):
            shapes |= _convolution(f"{block}.conv.{place}", 64, 64)
    return shapes
