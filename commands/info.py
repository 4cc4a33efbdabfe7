"""`cudaspeed info`: what a model takes of memory for a picture of a size, before anything is computed."""

from __future__ import annotations

import argparse

from ..api.memory_use import gigabytes
from ..api.options import UpscaleOptions
from ..models.loader import check_file, load_model
from .console import Console
from .devices import check_device
from .exit_codes import DONE
from .options import options_of, parse_size

_SIZE = 1024, 1024
_WORDS = {
    "weights": "the model's weights",
    "copy": "our copy of them",
    "waiting": "our copy of them, where it waits",
    "transformed": "convolutions' weights, transformed",
    "compiled": "what was compiled of it",
    "forward": "one forward, at most",
    "scores": "pages of attention scores",
    "graphs": "recorded CUDA graphs",
    "frames": "frames in work",
    "strips": "tiles being put together",
    "staging": "pinned buffers on the way",
    "result": "the result",
}


def run(arguments: argparse.Namespace, console: Console) -> int:
    """List what it takes; as one record with `--json`."""
    options = options_of(UpscaleOptions, arguments)
    height, width = parse_size(arguments.size) if arguments.size else _SIZE
    check_file(arguments.model)
    check_device(arguments.device, arguments.reserve_vram)

    from ..host.standalone import StandaloneContext  # with torch, now that nothing is wrong with what was asked for
    from ..upscale_engine import memory_of

    context = StandaloneContext(arguments.device, reserve_vram=arguments.reserve_vram)
    use, how = memory_of(load_model(arguments.model), (height, width), options, context)
    record = {
        "model": arguments.model,
        "size": (width, height),
        "device": str(context.device),
        "how": how,
        "bytes": use.items,
        "in_main_memory": use.apart if use.apart else [*use.items] if context.device.type == "cpu" else [],
        "total": use.total,
    }
    lines = [f"{arguments.model}, {width}x{height}, {context.device}, {how}: {use}"]
    lines += [f"  {gigabytes(size):>8}  {_WORDS[name]}" for name, size in use.items.items() if size]
    for line in lines[:1] if console.json else lines:
        console.tell(record, line)
    return DONE
