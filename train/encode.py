"""Pairs of latents to train a latent upscaler on: `python train/encode.py --vae FOLDER --pictures FOLDER --out FOLDER`.

Each picture, and each turned and mirrored if wished, is encoded at its size and, shrunk by an area filter, at what it
is to be enlarged from. `--vae` is a folder as diffusers saves an AutoencoderKL or an AutoencoderTiny (TAESD).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from latent_space.autoencoders import TAESD, Autoencoder, load_autoencoder
from latent_space.pairs import About, write_pair
from PIL import Image
from tqdm import tqdm

from cudaspeed.api.errors import BadModelError
from cudaspeed.latents.names import BASES

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_MULTIPLE = 4  # of the small latent's sides, by which every scale of ours has whole ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True, help="folder with config.json and safetensors")
    parser.add_argument("--pictures", type=Path, required=True, help="folder; those below it, too")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pairs")
    parser.add_argument("--scale", type=float, default=2, choices=(1.25, 1.5, 2))
    parser.add_argument("--base", default="", choices=("", *BASES), help="whose latents these are")
    parser.add_argument("--taesd", default="", choices=("", *TAESD), help="the autoencoder is the TAESD of this one")
    parser.add_argument("--most", type=int, default=1024, help="longest side in pixels; larger pictures are cut up")
    parser.add_argument("--turned", action="store_true", help="each in eight positions")
    parser.add_argument("--mean", action="store_true", help="the mean of what the encoder gives, not a sample of it")
    parser.add_argument("--with-pictures", action="store_true", help="keep them in the files, to judge by")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    try:
        encode(args)
    except (ValueError, OSError, BadModelError) as error:
        raise SystemExit(f"encode.py: {error}") from error


def encode(args: argparse.Namespace) -> None:
    """All of it. Raises `ValueError` and `OSError` for what cannot be done."""
    torch.manual_seed(args.seed)
    if any(args.out.glob("*.safetensors")):
        raise ValueError(f"--out {args.out}: holds pairs already; name a folder that does not")
    files = sorted(path for path in args.pictures.rglob("*") if path.suffix.lower() in _ENDINGS)
    if not files:
        raise ValueError(f"--pictures {args.pictures}: holds no pictures ({', '.join(_ENDINGS)})")
    autoencoder = load_autoencoder(args.vae, args.device, args.taesd)
    unit = round(_MULTIPLE * args.scale) * autoencoder.factor
    if args.most < unit:
        raise ValueError(f"--most {args.most}: pictures are cut into multiples of {unit} pixels; name one at least")
    about = About(args.scale, autoencoder.channels, autoencoder.sha256, args.base)
    args.out.mkdir(parents=True, exist_ok=True)
    count = 0
    for file in tqdm(files, unit="picture"):
        try:
            whole = Image.open(file).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            tqdm.write(f"{file} is left out: {error}")
            continue
        for picture in pieces(whole, args, autoencoder.factor):
            tensors = encoded(picture, autoencoder, args)
            write_pair(args.out / f"{count:07}.safetensors", tensors, about)
            count += 1
    print(
        f"{count} pairs of {len(files)} pictures, {autoencoder.channels} channels, {autoencoder.factor} pixels a value"
    )


def pieces(picture: Image.Image, args: argparse.Namespace, factor: int) -> Iterator[Image.Image]:
    """What a picture gives: pieces of at most `most` pixels a side, with sides that both latents can have, turned."""
    unit = round(_MULTIPLE * args.scale) * factor
    for top in range(0, picture.height - unit + 1, args.most // unit * unit):
        for left in range(0, picture.width - unit + 1, args.most // unit * unit):
            height, width = (
                min(args.most, whole - begin) // unit * unit
                for whole, begin in ((picture.height, top), (picture.width, left))
            )
            piece = picture.crop((left, top, left + width, top + height))
            for turn in range(4 if args.turned else 1):
                turned = piece.rotate(90 * turn, expand=True)
                yield turned
                if args.turned:
                    yield turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def encoded(picture: Image.Image, autoencoder: Autoencoder, args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The tensors of a pair."""
    smaller = picture.resize(
        (round(picture.width / args.scale), round(picture.height / args.scale)), Image.Resampling.BOX
    )
    tensors = {
        name: autoencoder.encode(signed(some).to(args.device), not args.mean)[0].float().cpu()
        for name, some in (("small", smaller), ("large", picture))
    }
    if args.with_pictures:
        tensors["picture"] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return tensors


def signed(picture: Image.Image) -> torch.Tensor:
    """[1, 3, H, W], -1..1: what autoencoders were trained with."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


if __name__ == "__main__":
    main()
