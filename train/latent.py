"""Train a latent upscaler: `python train/latent.py --pairs FOLDER --architecture swinfir --out my_sdxl.safetensors`.

The recipe is that of sudo-latent-upscale (github.com/styler00dollar/ComfyUI-sudo-latent-upscale), with what its README
tells of as options. `encode.py` makes the pairs. Several GPUs: `torchrun --nproc_per_node 2 train/latent.py ...`; on
the CPU as well. Interrupted, the same command with `--resume` goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from latent_space import optimizers
from latent_space.autoencoders import TAESD, load_autoencoder
from latent_space.drawing import draw_losses
from latent_space.judging import judge, mean
from latent_space.losses import Weights
from latent_space.networks import ARCHITECTURES, network_of
from latent_space.pairs import About, Pairs
from latent_space.processes import Process, joined
from latent_space.second_stage import SecondStage
from latent_space.training import Recipe, Training
from safetensors.torch import save_file
from tqdm import tqdm

from cudaspeed.api.errors import BadModelError
from cudaspeed.latents.loader import load_latent_model
from cudaspeed.latents.names import base_of, scale_of
from cudaspeed.models.latent_upscalers import LATENT_CHANNELS
from cudaspeed.models.precision import fast_precisions

_WINDOWS = {"swinfir": 8, "convolutions": 1}  # of the others 16


def positive(text: str) -> int:
    """A whole number of 1 and more."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    if args.vae is None and any((args.held_out, args.decoded, args.edges, args.decoded_spectrum)):
        parser.error("--held-out, --decoded, --edges and --decoded-spectrum need --vae")
    if args.out.suffix != ".safetensors":
        parser.error(f"--out {args.out}: its name must end with .safetensors")
    if args.patch % _WINDOWS.get(args.architecture, 16):
        parser.error(
            f"--patch {args.patch}: {args.architecture} needs a multiple of {_WINDOWS.get(args.architecture, 16)}"
        )
    if args.architecture == "dat" and args.batch == 1:
        parser.error("--batch 1: dat normalises over the patches of a step, and needs 2 or more")
    try:
        checked_and_trained(args)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError, BadModelError) as error:
        raise SystemExit(f"latent.py: {error}") from error


def checked_and_trained(args: argparse.Namespace) -> None:
    """All of it. Raises what `main` tells."""
    pairs = Pairs(args.pairs)
    if pairs.about.channels not in LATENT_CHANNELS:
        raise ValueError(f"{args.pairs}: has {pairs.about.channels} channels, and {LATENT_CHANNELS} are latents'")
    if args.held_out and Pairs(args.held_out).about != pairs.about:
        raise ValueError(f"--held-out {args.held_out}: is of another scale or autoencoder than {args.pairs}")
    if args.resume and not state_of(args.out).exists():
        raise ValueError(f"--resume: there is no {state_of(args.out)} to go on with")
    if args.architecture == "convolutions" and scale_of(args.out.stem) != pairs.about.scale:
        raise SystemExit(
            f"--out {args.out}: its name must end with -x{float(pairs.about.scale)}; nothing else tells the scale"
        )
    name = pairs.about.base.split(",")[0].replace(" ", "").lower()
    if name and base_of(args.out.stem) != pairs.about.base:
        raise SystemExit(f"--out {args.out}: its name must tell {pairs.about.base}, as my_{name}.safetensors")
    with joined(args.device) as process:
        train(args, pairs, process)


def train(args: argparse.Namespace, pairs: Pairs, process: Process) -> None:
    """All of it, in one of the processes."""
    torch.manual_seed(args.seed)
    sizes = {name: value for name in ("embed", "groups") if (value := getattr(args, name)) is not None}
    network = network_of(args.architecture, pairs.about.channels, pairs.about.scale, sizes)
    rate = args.rate or optimizers.RATES[args.optimizer]
    half = args.precision == "bf16" or (args.precision == "auto" and "bf16" in fast_precisions(process.device))
    recipe = Recipe(args.steps, args.batch, args.patch, args.optimizer, rate, args.average, half, args.seed)
    weights = Weights(args.weight, args.loss == "mse", args.spectrum, args.decoded, args.edges, args.decoded_spectrum)
    stage = SecondStage(args.discriminator, args.discriminator_from, args.contextual, args.contextual_from)
    training = Training(network, recipe, weights, stage, process)
    state = state_of(args.out)
    if args.resume:
        training.resume(state, pairs.about.channels)
    autoencoder = load_autoencoder(args.vae, str(process.device), args.taesd) if args.vae else None
    if autoencoder and autoencoder.sha256 != pairs.about.sha256:
        raise ValueError(f"--vae {args.vae}: is another autoencoder than the one that made {args.pairs}")
    decode = autoencoder.decode if autoencoder and weights.through_decoder else None
    args.out.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=args.steps, initial=len(training.losses), disable=not process.first, unit="step")
    for loss in training.steps(pairs, decode):
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update()
        step = len(training.losses)
        if process.first and (step % args.save_every == 0 or step == args.steps):
            training.save(state)
            write(args, training, pairs.about)
            if args.plot:
                draw_losses(training.losses, args.out.with_suffix(".png"))
            if autoencoder and args.held_out:
                found = mean(judge(averaged(training), Pairs(args.held_out), autoencoder, process.device))
                tqdm.write(
                    f"step {step}: {found.made:.2f} dB, bilinear {found.bilinear:.2f}, bislerp {found.bislerp:.2f}, "
                    f"true latents {found.true:.2f}; gain {found.gain:+.2f} dB"
                )


def state_of(out: Path) -> Path:
    """Where what going on needs lies."""
    return out.with_suffix(".training")


def averaged(training: Training) -> torch.nn.Module:
    """The network with the averaged weights, to be used."""
    return training.averaged.module.eval()


def write(args: argparse.Namespace, training: Training, about: About) -> None:
    """The averaged weights as a file that our loader takes; it is loaded to see that. No folders in its texts."""
    recipe = {name: str(value) for name, value in vars(args).items() if not isinstance(value, Path)}
    texts = {
        "architecture": args.architecture,
        "base": about.base,
        "scale": f"{about.scale:g}",
        "vae_sha256": about.sha256,
        "steps": str(len(training.losses)),
        "recipe": json.dumps(recipe),
    }
    unfinished = args.out.with_suffix(".part")
    state = {name: value.cpu().contiguous() for name, value in averaged(training).state_dict().items()}
    save_file(state, unfinished, metadata=texts)
    unfinished.chmod(0o644)  # safetensors makes files that only their owner can read
    unfinished.replace(args.out)
    load_latent_model(args.out)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("what it is trained on")
    data.add_argument("--pairs", type=Path, required=True, help="folder that encode.py has filled")
    data.add_argument("--held-out", type=Path, help="pairs that it is judged by; needs --vae")
    data.add_argument("--vae", type=Path, help="folder of the autoencoder: to judge by, and for losses on pictures")
    data.add_argument("--taesd", default="", choices=("", *TAESD), help="the autoencoder is the TAESD of this one")
    data.add_argument("--out", type=Path, required=True, help="the model; its name tells what it is for, as my_sdxl")
    data.add_argument("--resume", action="store_true", help="go on with what lies beside --out")
    data.add_argument("--save-every", type=positive, default=1000, metavar="STEPS")
    data.add_argument("--plot", action="store_true", help="the loss as a PNG beside --out")
    network = parser.add_argument_group("the network")
    network.add_argument("--architecture", choices=ARCHITECTURES, default="swinfir")
    network.add_argument("--embed", type=positive, help="channels within; default: the published number")
    network.add_argument("--groups", type=positive, help="of six blocks; default: the published number")
    steps = parser.add_argument_group("steps")
    steps.add_argument("--steps", type=positive, default=100_000)
    steps.add_argument("--batch", type=positive, default=32, help="patches a step, of each process")
    steps.add_argument("--patch", type=positive, default=32, help="side of a small latent's patch, a multiple of 16")
    steps.add_argument("--optimizer", choices=optimizers.NAMES, default="adamw")
    steps.add_argument("--rate", type=float, help=f"default: {optimizers.RATES}")
    steps.add_argument("--average", type=float, default=0.999, help="of the averaged weights, kept by a step")
    steps.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: bf16 where native")
    steps.add_argument("--seed", type=int, default=2026)
    steps.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    loss = parser.add_argument_group("loss; whatever weighs 0 is not computed, and no SSIM is here: it was unstable")
    loss.add_argument("--loss", choices=("l1", "mse"), default="l1")
    loss.add_argument("--weight", type=float, default=1.0, help="of --loss; 0.08 beside a discriminator")
    loss.add_argument("--spectrum", type=float, default=0.0, help="L1 of Fourier transforms")
    loss.add_argument("--decoded", type=float, default=0.0, help="L1 of decoded pictures; needs --vae and much memory")
    loss.add_argument("--edges", type=float, default=0.0, help="the same of their edges (HFEN)")
    loss.add_argument("--decoded-spectrum", type=float, default=0.0, help="the same of their Fourier transforms")
    second = parser.add_argument_group("second stage; best by --resume, with more --steps")
    second.add_argument("--discriminator", type=float, default=0.0, metavar="WEIGHT", help="needs timm")
    second.add_argument("--discriminator-from", type=int, default=0, metavar="STEP")
    second.add_argument("--contextual", type=float, default=0.0, metavar="WEIGHT", help="only at the very end, if ever")
    second.add_argument("--contextual-from", type=int, default=0, metavar="STEP")
    return parser


if __name__ == "__main__":
    main()
