"""Upscale the example picture with the bundled model, and by bicubic interpolation to compare: `make demo`."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

SOURCE = Path(__file__).absolute().parent / "chelsea.png"
FOLDER = SOURCE.parent.parent / "out"


def main() -> int:
    target, plain = FOLDER / "chelsea-cudaspeed.png", FOLDER / "chelsea-bicubic.png"
    command = [sys.executable, "-m", "cudaspeed.cli", "upscale", str(SOURCE), "-o", str(target), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return done.returncode
    report = json.loads(done.stdout)
    width, height = report["output_size"]
    with Image.open(SOURCE) as picture:
        picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(plain)
    before = "x".join(map(str, report["input_size"]))
    speed = width * height / 1e6 / report["seconds"]
    print(f"{SOURCE.name} {before} -> {width}x{height} with {report['model']} in {report['precision']}")
    print(f"{report['seconds']:.2f} s, {speed:.2f} megapixels per second (first run: the model's own checks included)")
    print(f"upscaled: {target}")
    print(f"bicubic:  {plain}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
