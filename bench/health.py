"""What looking after the output costs: `python -m bench.health [--model M] [--size 960x540] [--tile 128]`.

Three shares of the time of the upscale they belong to: the look at every tile, which is all that a healthy picture
costs; the correction of a frame whose range is broken (everything times 3); and the repair of holes in a frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.loader import DEFAULT_MODEL, load_model, resolve_model
from cudaspeed.pipeline.tile_check import TileStats, find_fault, measure_tiles
from cudaspeed.postprocess import heal
from cudaspeed.upscale_engine import upscale

from .harness import Results, command_line, parse_size, seconds_of


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--size", default="960x540", help="WIDTHxHEIGHT of the picture")
    parser.add_argument("--tile", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    height, width = parse_size(args.size)
    model, context = load_model(resolve_model(args.model)), StandaloneContext(args.device)
    small = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1)
    image = image.permute(0, 2, 3, 1).contiguous()
    options = UpscaleOptions(precision=args.precision, compile=False, tile=args.tile)
    result = upscale(image, model, options, context)
    whole = seconds_of(lambda: upscale(image, model, options, context), args.runs, context.device)
    print(f"{args.model}, {args.size}, {result.report.precision}, tiles of {result.report.tile}: {whole:.3f} s")
    results = Results(context.device, args.json)

    def tell(what: str, seconds: float) -> None:
        results.keep({"what": what, "seconds": seconds, "share": seconds / whole})
        print(f"{what}: {seconds:.4f} s, {seconds / whole:.2%}")

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[result.report.precision]
    (h, w), scale = result.report.tile, result.report.scale
    tile = torch.rand(1, 3, h, w, device=context.device)
    output = torch.rand(1, 3, h * scale, w * scale, device=context.device).to(dtype, memory_format=torch.channels_last)

    def look() -> None:
        find_fault(TileStats(*measure_tiles(tile, output)[0].tolist()), lambda: output[0])

    looks = seconds_of(look, 10 * args.runs, context.device) * result.report.tiles
    tell("looking at every tile", looks)

    frame, source = result.image[0], image[0]
    copying = seconds_of(lambda: frame.clone(), args.runs, context.device)
    for name, breakage in (("range x3", lambda x: x.mul_(3)), ("holes", lambda x: x[::7, ::11].fill_(torch.nan))):

        def correct(breakage: Callable[[torch.Tensor], object] = breakage) -> None:
            broken = frame.clone()
            breakage(broken)
            heal(broken, source)

        tell(f"correcting a frame, {name}", seconds_of(correct, args.runs, context.device) - copying)


if __name__ == "__main__":
    main()
