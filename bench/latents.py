"""What enlarging latents takes: `python -m bench.latents [--parts node batch load memory] [--models NAME...]`, and
`python -m bench.latents --parts way --vae FOLDER`, with an autoencoder as `train/tiny_autoencoder.py` makes one.

Latents of 4x64x64 in fp32, models of the published sizes with random weights. `node` has the node's work over the
plain forward of the network as its publisher's code has it, DAT and DRCT spandrel's (to reach: 1.03, and 0.7 for
those two); `batch` eight latents in one run over eight runs (0.9); `load` loading a file over `torch.load` of it (1.5)
and what stays in memory over the parameters (1.05); `memory` the estimate over the peak in a process of its own, before
anything was measured and after a run (0.95 to 1.25); `way` enlarging a latent over decoding, Lanczos and encoding.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.latents.loader import load_latent_model
from cudaspeed.latents.model import LatentModel
from cudaspeed.latents.options import LatentSize
from cudaspeed.latents.upscale import upscale_latent
from cudaspeed.pipeline.frame_io import TensorSink, TensorSource
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage.heap import trim_all
from cudaspeed.upscale_engine import tune, upscale_frames

from .harness import (
    ROOT,
    Record,
    Results,
    Work,
    command_line,
    forget_the_peak,
    in_turn,
    peak_growth,
    seconds,
    synchronize,
)
from .latent_zoo import MADE, write

_SIDE, _BATCH = 64, 8
_PARTS = ("node", "batch", "load", "memory", "way")
_SESSIONS = SessionCache()
_OPTIONS = UpscaleOptions(precision="fp32", compile=False)
# In a process of its own: nothing of this repository loads by pickle.
_TORCH_LOADS = """
import sys, time, torch
torch.load(sys.argv[1])
began = time.perf_counter()
torch.load(sys.argv[1])
print(time.perf_counter() - began)
"""
_WARM = 2  # runs, before those that count


def latents(count: int, side: int = _SIDE) -> Tensor:
    return 5 * torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(0))


def enlarged(samples: Tensor, model: LatentModel, context: StandaloneContext) -> Record:
    """As the node does it; the report."""

    def enlarge(frames: Tensor, target: Tensor, scaled: LatentModel) -> object:
        return upscale_frames((TensorSource(frames), TensorSink(target)), scaled, _OPTIONS, context, _SESSIONS)

    return upscale_latent({"samples": samples}, model, LatentSize(), enlarge)[1]  # type: ignore[arg-type, return-value]


def plain(network: Callable[..., Tensor], model: LatentModel, samples: Tensor, device: torch.device) -> None:
    """The network by itself."""
    given, sized = samples.to(device), model.traits.sized
    with torch.inference_mode():
        network(given, (2 * given.shape[2], 2 * given.shape[3])) if sized else network(given)


def node(name: str, folder: Path, context: StandaloneContext, rounds: int) -> Record:
    network, path = write(name, folder)
    model, samples = load_latent_model(path), latents(1)
    network.to(context.device)
    tune(model, (_SIDE, _SIDE), _OPTIONS, context, _SESSIONS)  # what runs find out between them, by and by
    works = {
        "node": partial(enlarged, samples, model, context),
        "plain": partial(plain, network, model, samples, context.device),
    }
    row = first_over_second(works, rounds, context.device)
    return {"plain": statistics.median(row["seconds"]["plain"]), **row}


def first_over_second(works: Mapping[str, Work], rounds: int, device: torch.device) -> Record:
    """The median ratio of two works in turn, and their seconds."""
    for _ in range(_WARM):
        for work in works.values():
            work()
    times = in_turn(works, rounds, device)
    pairs = [a / b for a, b in zip(*times.values(), strict=True)]
    return {"ratio": statistics.median(pairs), "seconds": times}


def batch(name: str, folder: Path, context: StandaloneContext, rounds: int) -> Record:
    model, samples = load_latent_model(write(name, folder)[1]), latents(_BATCH)
    tune(model, (_SIDE, _SIDE), _OPTIONS, context, _SESSIONS)

    def one_by_one() -> None:
        for sample in samples:
            enlarged(sample[None], model, context)

    works = {"together": partial(enlarged, samples, model, context), "one by one": one_by_one}
    return first_over_second(works, rounds, context.device)


def load(name: str, folder: Path, context: StandaloneContext, rounds: int) -> Record:
    path = write(name, folder, "pth")[1]
    load_latent_model(path)
    times: dict[str, list[float]] = {"ours": [], "torch.load": []}
    for _ in range(rounds):
        times["ours"].append(seconds(partial(load_latent_model, path), context.device))
        told = subprocess.run(
            [sys.executable, "-c", _TORCH_LOADS, str(path)], capture_output=True, text=True, check=True
        )
        times["torch.load"].append(float(told.stdout))
    network = load_latent_model(path).model
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(network)}
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    ratio = statistics.median(times["ours"]) / statistics.median(times["torch.load"])
    return {"ratio": ratio, "resident": sum(held.values()) / parameters, "seconds": times}


def _tensors(network: torch.nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def memory(name: str, folder: Path, context: StandaloneContext, rounds: int, side: int) -> Record:
    """In two processes one after the other, with what the first has found out for the second."""
    path = write(name, folder)[1]
    command = [sys.executable, "-m", "bench.latents", "--once", json.dumps([str(path), str(context.device), side])]
    told = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        told.append(json.loads(done.stdout.splitlines()[-1]))
    return {"ratio": told[1]["ratio"], "before": told[0]["ratio"], "told": told}


def once(path: str, device: str, side: int) -> Record:
    """In this process: the estimate for a latent over the growth of memory, weights aside."""
    model, context = load_latent_model(Path(path)), StandaloneContext(device)
    enlarged(latents(1, 16), model, context)
    _SESSIONS.learner.stop()  # whose forwards take memory, too, in between
    trim_all()
    forget_the_peak()
    reports: list[Record] = []
    grown = peak_growth(lambda: reports.append(enlarged(latents(1, side), model, context)), context.device)
    _SESSIONS.flush()
    use = reports[0].memory  # type: ignore[attr-defined]
    estimate = use.on_device - (
        use.weights * (not use.apart) + use.copy + use.transformed + use.result * (not use.apart)
    )
    return {"estimated": estimate, "peak": grown, "ratio": estimate / grown if grown else math.nan}


def way(name: str, folder: Path, context: StandaloneContext, rounds: int, vae: Path | None) -> Record:
    """Over what one does without a latent upscaler."""
    from diffusers import AutoencoderTiny

    if vae is None:
        raise SystemExit("`way` needs --vae FOLDER")
    autoencoder = AutoencoderTiny.from_pretrained(vae, local_files_only=True, use_safetensors=True).to(context.device)
    model, samples = load_latent_model(write(name, folder)[1]), latents(1) / 5
    tune(model, (_SIDE, _SIDE), _OPTIONS, context, _SESSIONS)

    def decoded_and_encoded() -> None:
        with torch.inference_mode():
            picture = autoencoder.decode(samples.to(context.device)).sample
            autoencoder.encode(twice_as_large(picture))

    works = {"latent": partial(enlarged, samples, model, context), "decoded": decoded_and_encoded}
    return first_over_second(works, rounds, context.device)


def twice_as_large(picture: Tensor) -> Tensor:
    """[1, 3, H, W], -1..1, by Pillow's Lanczos filter, as ComfyUI's node does it."""
    array = ((picture[0].permute(1, 2, 0).cpu().numpy() + 1) * 127.5).clip(0, 255).astype(np.uint8)
    height, width = array.shape[:2]
    larger = Image.fromarray(array).resize((2 * width, 2 * height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(larger)).to(picture).permute(2, 0, 1)[None] / 127.5 - 1


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=[part for part in _PARTS if part != "way"])
    parser.add_argument("--models", nargs="+", default=[*MADE], metavar="NAME", help=f"of {', '.join(MADE)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vae", type=Path, help="of `way`: folder of an autoencoder as diffusers saves it")
    parser.add_argument("--side", type=int, default=_SIDE, help="of `memory`: of the latent, pixels")
    parser.add_argument("--once", help="what one process of `memory` runs, as JSON")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(once(*json.loads(args.once))))
        return
    context = StandaloneContext(args.device)
    results = Results(context.device, args.json)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CUDASPEED_CACHE_DIR"] = scratch
        works = {"node": node, "batch": batch, "load": load}
        works |= {"memory": partial(memory, side=args.side), "way": partial(way, vae=args.vae)}
        for name in args.models:
            for part in args.parts:
                row = works[part](name, Path(scratch), context, args.rounds)
                synchronize(context.device)
                results.keep({"model": name, "part": part, **row})
                others = ", ".join(f"{key} {row[key]:.3f}" for key in ("plain", "resident", "before") if key in row)
                print(f"{name} {part}: {row['ratio']:.3f}" + (f" ({others})" if others else ""), flush=True)


if __name__ == "__main__":
    main()
