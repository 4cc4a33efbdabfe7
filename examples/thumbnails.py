"""Makes the thumbnails of the workflow templates, `example_workflows/*.jpg`, of the photograph that lies beside.

python examples/thumbnails.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

import cudaspeed

PHOTOGRAPH = Path(__file__).absolute().parent / "chelsea.png"
TEMPLATES = PHOTOGRAPH.parent.parent / "example_workflows"
SIZE = (448, 320)
PAPER = (38, 40, 44)
LANCZOS = Image.Resampling.LANCZOS


def upscaled(picture: Image.Image) -> Image.Image:
    """By the bundled x2 model."""
    pixels = torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)[None]
    options = cudaspeed.UpscaleOptions(precision="fp32", compile=False)
    result = cudaspeed.upscale(pixels, cudaspeed.load_model("cudaspeed-compact-x2"), options).image[0]
    return Image.fromarray((result.clamp(0, 1) * 255).round().byte().numpy())


def paper() -> Image.Image:
    return Image.new("RGB", SIZE, PAPER)


def twice_as_large(photograph: Image.Image) -> Image.Image:
    """The picture, and what becomes of it."""
    small = ImageOps.fit(photograph, (130, 112), LANCZOS)
    made = paper()
    made.paste(small, (12, 104))
    made.paste(upscaled(small), (170, 48))
    ImageDraw.Draw(made).text((148, 150), ">", fill="white", font_size=26)
    return made


def in_a_size(photograph: Image.Image) -> Image.Image:
    """A wide picture out of one of another shape, with its size written on it."""
    made = paper()
    made.paste(ImageOps.fit(photograph, (416, 234), LANCZOS), (16, 43))
    ImageDraw.Draw(made).text((26, 243), "3840 x 2160", fill="white", font_size=26, stroke_width=2, stroke_fill="black")
    return made


def compared(photograph: Image.Image) -> Image.Image:
    """Lanczos on the left, the model on the right, of a photograph that was made small before."""
    part = ImageOps.fit(photograph, (SIZE[0] // 2, SIZE[1] // 2), LANCZOS)
    made, model = part.resize(SIZE, LANCZOS), upscaled(part)
    middle = SIZE[0] // 2
    made.paste(model.crop((middle, 0, *SIZE)), (middle, 0))
    ImageDraw.Draw(made).line([(middle, 0), (middle, SIZE[1])], fill="white", width=3)
    return made


def several(photograph: Image.Image) -> Image.Image:
    """Pictures in a pile."""
    made = paper()
    for step, size in enumerate(((200, 150), (170, 190), (250, 180))):
        picture = ImageOps.expand(ImageOps.fit(photograph, size, LANCZOS, centering=(0.3 * step, 0.5)), 4, "white")
        made.paste(picture, (20 + 82 * step, 24 + 48 * step))
    return made


def repeated(photograph: Image.Image) -> Image.Image:
    """A texture of a picture and its mirror images, repeated."""
    piece = ImageOps.fit(photograph, (112, 80), LANCZOS)
    made = paper()
    for row in range(4):
        for column in range(4):
            part = ImageOps.mirror(piece) if column % 2 else piece
            made.paste(ImageOps.flip(part) if row % 2 else part, (112 * column, 80 * row))
    return made


def film(photograph: Image.Image) -> Image.Image:
    """Frames between the holes of a film."""
    made = paper()
    draw = ImageDraw.Draw(made)
    for step in range(3):
        frame = ImageOps.fit(photograph, (140, 200), LANCZOS, bleed=0.06 * step)
        made.paste(frame, (7 + 147 * step, 60))
    for hole in range(12):
        for top in (20, 282):
            draw.rounded_rectangle((10 + 37 * hole, top, 30 + 37 * hole, top + 18), 4, fill="white")
    return made


def between_samplers(photograph: Image.Image) -> Image.Image:
    """Noise that is half of a picture, the cells of a latent, and the picture that they become."""
    noisy, latent, picture = (ImageOps.fit(photograph, (side, side), LANCZOS) for side in (96, 116, 156))
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    cells = latent.resize((16, 16), Image.Resampling.BOX).resize(latent.size, Image.Resampling.NEAREST)
    made = paper()
    draw, left = ImageDraw.Draw(made), 12
    for part in (Image.blend(noisy, Image.fromarray(noise), 0.5), cells, picture):
        made.paste(part, (left, (SIZE[1] - part.height) // 2))
        left += part.width + 28
        if part is not picture:
            draw.text((left - 21, 145), ">", fill="white", font_size=26)
    return made


def main() -> None:
    photograph = Image.open(PHOTOGRAPH).convert("RGB")
    for name, make in {
        "upscale_x2": twice_as_large,
        "upscale_to_3840x2160": in_a_size,
        "before_and_after": compared,
        "folder_of_pictures_(needs_a_folder)": several,
        "seamless_texture": repeated,
        "two_samplers_(needs_a_latent_upscaler)": between_samplers,
        "video_(needs_a_video)": film,
    }.items():
        make(photograph).save(TEMPLATES / f"{name}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
