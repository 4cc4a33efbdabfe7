"""All of the training of a latent upscaler, small: `python train/latent_demo.py --out FOLDER`.

Pictures of the wheels and drawn ones, an autoencoder of ours, pairs, and a network for each of five seeds, judged on
pictures that none of it has seen. It shows that the training works; the models are of no use elsewhere.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sources
import synthetic
from PIL import Image

HERE = Path(__file__).absolute().parent
HELD_OUT = ("chelsea.png", "coffee.png", "flower.jpg", "astronaut.png")
_SMALL = (
    *(
        "--architecture",
        "swinfir",
        "--embed",
        "48",
        "--groups",
        "2",
        "--steps",
        "300",
        "--batch",
        "16",
        "--patch",
        "16",
    ),
    *("--rate", "1e-3", "--average", "0.99", "--save-every", "100"),
)
_DRAWN = 2  # of each kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--autoencoder-steps", type=int, default=3500)
    parser.add_argument("rest", nargs="*", metavar="OPTION", help="of latent.py, behind --")
    args = parser.parse_args()

    pictures, held_out, vae = (args.out / name for name in ("pictures", "held_out", "autoencoder"))
    write_pictures(pictures, held_out)
    if not vae.exists():
        run("tiny_autoencoder.py", "--pictures", pictures, "--out", vae, "--steps", args.autoencoder_steps)
    pairs, judged = args.out / "pairs", args.out / "held_out_pairs"
    if not judged.exists():  # the last of the two
        shutil.rmtree(pairs, ignore_errors=True)
        run("encode.py", "--vae", vae, "--pictures", pictures, "--out", pairs, "--turned")
        run("encode.py", "--vae", vae, "--pictures", held_out, "--out", judged, "--with-pictures")
    for seed in args.seeds:
        print(f"seed {seed}", flush=True)
        where = (
            "--pairs",
            pairs,
            "--held-out",
            judged,
            "--vae",
            vae,
            "--out",
            args.out / f"seed{seed}.safetensors",
        )
        run("latent.py", *where, "--seed", seed, *_SMALL, *args.rest)


def run(script: str, *arguments: object) -> None:
    """One of the scripts beside this one. Raises `CalledProcessError` where it fails."""
    command: Sequence[str] = [sys.executable, str(HERE / script), *map(str, arguments)]
    subprocess.run(command, check=True)


def write_pictures(folder: Path, held_out: Path) -> None:
    """What is trained on, each in two sizes, and what is not."""
    for path in (folder, held_out):
        path.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(2026)
    colours = []
    for photo in (*sources.IN_WHEELS, sources.HELD_OUT):
        picture = sources.load(photo, None)
        if photo.file in HELD_OUT:
            picture.save(held_out / f"{Path(photo.file).stem}.png")
            continue
        colours.append(np.asarray(picture.resize((64, 64))).reshape(-1, 3))
        for share in (photo.largest, photo.largest / 2):
            size = (max(256, round(picture.width * share)), max(256, round(picture.height * share)))
            picture.resize(size, Image.Resampling.LANCZOS).save(folder / f"{Path(photo.file).stem}_{share:g}.png")
    for number in range(_DRAWN):
        synthetic.line_art(256, draw).save(folder / f"line_art_{number}.png")
        synthetic.text(256, draw).save(folder / f"text_{number}.png")
        synthetic.dead_leaves(384, draw, np.concatenate(colours)).save(folder / f"leaves_{number}.png")


if __name__ == "__main__":
    main()
