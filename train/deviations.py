"""How far other types and compiled runs are from float32: `python train/deviations.py MODEL... [--pictures FOLDER]`.

Each model, in each of fp32, bf16 and fp16, eager and compiled, upscales through the engine, as a user's picture would,
the pictures of a folder (or the example picture) shrunk by Pillow's bicubic filter. Against the eager float32 result:
the lowest PSNR over all colours, and the largest difference of a value, in steps of 8 bits. Against the original: the
mean PSNR on luma, as in `evaluate.py`. A GPU is used where there is one. Where the engine runs another type than the
one asked for (fp16 on a CPU, say), the model alone is run outright in that type, and the row says so.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from evaluate import luma_psnr, pictures_in
from PIL import Image
from spandrel import ImageModelDescriptor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.execution import DTYPES
from cudaspeed.models.loader import load_model
from cudaspeed.upscale_engine import SessionCache, upscale

EXAMPLES = Path(__file__).absolute().parent.parent / "examples"


class Runs:
    """One model, run in every way on the same pictures: outputs [h, w, 3], float64, 0..255, not rounded."""

    def __init__(self, model: ImageModelDescriptor, images: list[torch.Tensor], device: str) -> None:
        self.model, self.images, self.device = model, images, device
        self.sessions = SessionCache()

    def through_the_engine(self, precision: str, compiled: bool) -> list[np.ndarray] | None:
        """None where the engine ran it otherwise than asked."""
        options = UpscaleOptions(precision=precision, compile=compiled, compile_mode="wait")
        context, outputs = StandaloneContext(self.device), []
        for image in self.images:
            if compiled:  # the first time it gives eager's result, which it checks the compiled one with
                upscale(image, self.model, options, context, self.sessions)
            result = upscale(image, self.model, options, context, self.sessions)
            if (result.report.precision, result.report.compiled) != (precision, compiled):
                return None
            outputs.append(result.image[0].double().numpy() * 255)
        return outputs

    @torch.inference_mode()
    def outright(self, precision: str) -> list[np.ndarray]:
        """The network alone, its weights and all it computes in one type."""
        network = copy.deepcopy(self.model.model).to(DTYPES[precision])
        outputs = []
        for image in self.images:
            output = network(image.permute(0, 3, 1, 2).to(DTYPES[precision])).float().clamp(0, 1)
            outputs.append(output[0].permute(1, 2, 0).double().numpy() * 255)
        return outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--pictures", type=Path, default=EXAMPLES)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {StandaloneContext(args.device).device}")
    print("| model | run | PSNR to fp32 eager, dB | largest difference, of 255 | luma PSNR to the original, dB |")
    print("| --- | --- | --- | --- | --- |")
    for path in args.models:
        model = load_model(path)
        larges, smalls = zip(*pictures_in(args.pictures, model.scale).values(), strict=True)
        runs = Runs(model, [torch.from_numpy(np.array(s)).float()[None] / 255 for s in smalls], args.device)
        truths = runs.through_the_engine("fp32", compiled=False)
        assert truths is not None
        for compiled in (False, True):
            for precision in ("fp32", "bf16", "fp16"):
                name = f"{precision} {'compiled' if compiled else 'eager'}"
                outputs = runs.through_the_engine(precision, compiled)
                if outputs is None and not compiled:
                    outputs, name = runs.outright(precision), f"{precision}, the model alone"
                if outputs is None:
                    print(f"| {path.stem} | {name} | not run by the engine here | | |", flush=True)
                    continue
                errors = [ours - truth for ours, truth in zip(outputs, truths, strict=True)]
                worst = max(np.mean(e**2) for e in errors)
                near = f"{10 * np.log10(255**2 / worst):.1f}" if worst else "same bits"
                pictures = [Image.fromarray(ours.round().astype(np.uint8)) for ours in outputs]
                quality = np.mean([luma_psnr(p, large, model.scale) for p, large in zip(pictures, larges, strict=True)])
                largest = max(np.abs(e).max() for e in errors)
                print(f"| {path.stem} | {name} | {near} | {largest:.4f} | {quality:.3f} |", flush=True)


if __name__ == "__main__":
    main()
