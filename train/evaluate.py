"""PSNR of a model against bicubic on a folder of pictures: `python train/evaluate.py MODEL FOLDER`.

Each picture is cut to a multiple of the scale, shrunk with Pillow's bicubic filter, rounded to 8 bits, upscaled by the
model in float32 in one piece, rounded again, and compared on luma (ITU-R BT.601, 16..235) with a border of `scale`
pixels cropped: the customary protocol of the super-resolution literature.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def luma(picture: Image.Image) -> np.ndarray:
    """BT.601 luma of an RGB picture, [h, w] float64, 16..235."""
    rgb = np.asarray(picture, dtype=np.float64)
    return 16.0 + (65.481 * rgb[..., 0] + 128.553 * rgb[..., 1] + 24.966 * rgb[..., 2]) / 255.0


def luma_psnr(a: Image.Image, b: Image.Image, border: int) -> float:
    """Peak signal-to-noise ratio on luma in dB, with `border` pixels cropped from every side."""
    error = (luma(a) - luma(b))[border:-border, border:-border]
    return float(10 * np.log10(255.0**2 / np.mean(error**2)))


def cut_to_multiple(picture: Image.Image, scale: int) -> Image.Image:
    return picture.crop((0, 0, picture.width // scale * scale, picture.height // scale * scale))


def shrink(picture: Image.Image, scale: int) -> Image.Image:
    """By Pillow's bicubic filter; the sides must be multiples of `scale`."""
    return picture.resize((picture.width // scale, picture.height // scale), Image.Resampling.BICUBIC)


def through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """What is left of it after JPEG of that quality, colours at half the resolution."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=2)
    return Image.open(buffer).convert("RGB")


@torch.inference_mode()
def upscale_picture(model: torch.nn.Module, picture: Image.Image) -> Image.Image:
    """`picture` through `model` ([1, 3, H, W] float 0..1 in and out), rounded to 8 bits."""
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    output = model(image).clamp(0, 1)[0].permute(1, 2, 0)
    return Image.fromarray((output * 255).round().byte().numpy())


def pictures_in(folder: Path, scale: int) -> dict[str, tuple[Image.Image, Image.Image]]:
    """By file name: every picture of `folder` cut to a multiple of `scale`, and the same shrunk by `scale`."""
    pictures = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"):
            large = cut_to_multiple(Image.open(path).convert("RGB"), scale)
            pictures[path.name] = large, shrink(large, scale)
    return pictures


def main() -> None:
    from spandrel import ModelLoader

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jpeg", type=int, metavar="QUALITY", help="save the small pictures as JPEG (4:2:0) first")
    args = parser.parse_args()
    descriptor = ModelLoader(device="cpu").load_from_file(args.model).eval()
    scale, rows = descriptor.scale, []
    for name, (large, small) in pictures_in(args.folder, scale).items():
        if args.jpeg:
            small = through_jpeg(small, args.jpeg)
        model = luma_psnr(upscale_picture(descriptor.model, small), large, scale)
        bicubic = luma_psnr(small.resize(large.size, Image.Resampling.BICUBIC), large, scale)
        rows.append((bicubic, model))
        print(f"{name:<24} bicubic {bicubic:6.2f}  model {model:6.2f}  {model - bicubic:+.2f} dB")
    bicubic, model = np.mean(rows, axis=0)
    print(f"{'mean':<24} bicubic {bicubic:6.2f}  model {model:6.2f}  {model - bicubic:+.2f} dB")


if __name__ == "__main__":
    main()
