"""Training latent upscalers: a file that our loader takes, gone on with where it stopped, by one process or several."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from latent_space.checkpoints import load_state
from latent_space.losses import Weights, contextual, edges_of, loss_of, spectral
from latent_space.networks import ARCHITECTURES, network_of
from latent_space.pairs import About, Pairs, write_pair
from latent_space.processes import Process
from latent_space.second_stage import SecondStage
from latent_space.training import Recipe, Training
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from cudaspeed.latents.loader import load_latent_model
from cudaspeed.latents.names import base_of, scale_of

ROOT = Path(__file__).parents[2]
ALONE = Process(0, 1, torch.device("cpu"))
SMALL = (
    "--architecture",
    "swinfir",
    "--embed",
    "12",
    "--groups",
    "1",
    "--batch",
    "2",
    "--patch",
    "8",
    "--device",
    "cpu",
)


def field(seed: int, height: int, width: int) -> Tensor:
    """Latents [4, height, width] with edges in them, as pictures have."""
    coarse = torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(height, width), mode="bicubic").sign()[0] * 3


def made_pairs(folder: Path, count: int = 4, scale: float = 2, base: str = "SDXL") -> Path:
    folder.mkdir()
    for number in range(count):
        large = field(number, 48, 64)
        small = F.interpolate(large[None], size=(round(48 / scale), round(64 / scale)), mode="area")[0]
        write_pair(folder / f"{number}.safetensors", {"small": small, "large": large}, About(scale, 4, "ab12", base))
    return folder


def run(*arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), ROOT / "train" / "latent.py", *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def trained(out: Path, pairs: Path, steps: int, *more: object, processes: int = 1) -> Path:
    done = run("--pairs", pairs, "--out", out, "--steps", steps, *SMALL, *more, processes=processes)
    assert done.returncode == 0, done.stderr
    return out


def test_what_is_trained_is_a_file_of_its_family_that_tells_what_it_is_of(tmp_path: Path) -> None:
    out = trained(tmp_path / "mine_SDXL.safetensors", made_pairs(tmp_path / "pairs"), 3)

    traits = load_latent_model(out).traits
    assert (traits.family, traits.channels, traits.scales, traits.base) == ("SwinFIR", 4, (2, 2), "SDXL")
    with safe_open(out, "pt") as file:
        texts = file.metadata()
    assert (texts["vae_sha256"], texts["base"], texts["scale"], texts["steps"]) == ("ab12", "SDXL", "2", "3")
    assert str(tmp_path) not in str(texts)  # where it was made is nobody's business


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lamb", "prodigy"])
def test_a_network_learns(optimizer: str, tmp_path: Path) -> None:
    if optimizer in ("lamb", "prodigy"):
        pytest.importorskip("pytorch_optimizer")
    pairs = Pairs(made_pairs(tmp_path / "pairs"))
    rate = {"prodigy": 1.0, "lamb": 0.03}.get(optimizer, 3e-3)
    recipe = Recipe(60, 4, 8, optimizer, rate, 0.9, half=False, seed=1)  # type: ignore[arg-type]
    training = new_training(recipe)

    losses = [*training.steps(pairs, None)]

    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def new_training(recipe: Recipe, weights: Weights = Weights(), stage: SecondStage = SecondStage()) -> Training:  # noqa: B008
    torch.manual_seed(0)
    return Training(network_of("swinfir", 4, 2, {"embed": 12, "groups": 1}), recipe, weights, stage, ALONE)


def test_what_was_interrupted_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    pairs = Pairs(made_pairs(tmp_path / "pairs"))
    recipe = Recipe(6, 2, 8, "adamw", 1e-3, 0.9, half=False, seed=1)
    whole = new_training(recipe)
    whole_losses = [*whole.steps(pairs, None)]
    broken = new_training(recipe)
    for step, _ in enumerate(broken.steps(pairs, None), start=1):
        if step == 3:
            broken.save(tmp_path / "state")
            break

    resumed = new_training(recipe)
    resumed.resume(tmp_path / "state", 4)

    assert len([*resumed.steps(pairs, None)]) == 3
    assert resumed.losses == whole_losses
    for key, weight in whole.averaged.state_dict().items():
        assert torch.equal(resumed.averaged.state_dict()[key], weight), key


def test_two_processes_train_one_network_on_what_both_draw(tmp_path: Path) -> None:
    pairs = made_pairs(tmp_path / "pairs")
    alone = trained(tmp_path / "alone_SDXL.safetensors", pairs, 3)
    together = trained(tmp_path / "together_SDXL.safetensors", pairs, 3, processes=2)

    one, both = load_file(alone), load_file(together)
    assert one.keys() == both.keys()
    assert any(not torch.equal(one[key], both[key]) for key in one)
    assert all(torch.isfinite(weight).all() for weight in both.values() if weight.is_floating_point())


def test_two_processes_have_a_discriminator_together(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    stage = ("--discriminator", "0.01", "--contextual", "0.1", "--contextual-from", "1")
    pairs = made_pairs(tmp_path / "pairs")

    trained(tmp_path / "mine_SDXL.safetensors", pairs, 2, *stage, "--patch", "16", processes=2)


def test_a_discriminator_and_a_contextual_loss_can_follow(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    pairs = Pairs(made_pairs(tmp_path / "pairs"))
    stage = SecondStage(weight=0.01, begins=1, contextual=0.1, contextual_begins=2)
    training = new_training(Recipe(4, 2, 16, "adamw", 1e-3, 0.9, half=False, seed=1), stage=stage)

    assert all(math.isfinite(loss) for loss in training.steps(pairs, None))
    training.save(tmp_path / "state")
    assert "discriminator" in load_state(tmp_path / "state")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_has_the_scale_of_the_pairs(architecture: str) -> None:
    sizes = {"embed": 48} if architecture == "convolutions" else {"embed": 96, "groups": 1}
    network = network_of(architecture, 4, 2, sizes).eval()  # type: ignore[arg-type]
    with torch.inference_mode():
        assert network(torch.randn(1, 4, 16, 16)).shape == (1, 4, 32, 32)


def test_patches_of_both_sizes_show_the_same_place(tmp_path: Path) -> None:
    import numpy as np

    for scale in (1.25, 1.5, 2.0):
        pairs = Pairs(made_pairs(tmp_path / f"{scale}", scale=scale))
        small, large = pairs.batch(8, 8, np.random.default_rng(0))
        assert large.shape == (8, 4, round(8 * scale), round(8 * scale))
        shrunk = F.interpolate(large, size=(8, 8), mode="area")
        assert (shrunk - small).abs().mean() < 0.2 * small.abs().mean()


def test_losses_are_nothing_where_nothing_differs_and_something_where_it_does() -> None:
    one, other = field(1, 16, 16)[None], field(2, 16, 16)[None]
    for weights in (Weights(), Weights(squared=True), Weights(spectrum=1.0), Weights(decoded=1.0, edges=1.0)):
        assert loss_of(one, one, weights, lambda latents: latents[:, :3]) == 0
        assert loss_of(one, other, weights, lambda latents: latents[:, :3]) > 0.1
    assert spectral(one, one + 1) > 0
    assert edges_of(torch.full((1, 3, 32, 32), 5.0))[..., 8:-8, 8:-8].abs().max() < 1e-4


def test_a_contextual_loss_does_not_mind_where_features_are() -> None:
    features = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    moved = features.flatten(2)[..., torch.randperm(36)].view_as(features)
    others = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(contextual(features, moved), contextual(features, features), rtol=1e-4, atol=1e-5)
    assert contextual(features, moved) < 0.5 * contextual(features, others)


def test_a_name_that_would_not_tell_what_a_file_is_for_is_refused_at_once(tmp_path: Path) -> None:
    pairs = made_pairs(tmp_path / "pairs")
    nameless = run("--pairs", pairs, "--out", tmp_path / "mine.safetensors", *SMALL)
    scaleless = run("--pairs", pairs, "--out", tmp_path / "mine_SDXL.safetensors", "--architecture", "convolutions")

    assert nameless.returncode == 1 and "its name must tell SDXL, as my_sdxl.safetensors" in nameless.stderr
    assert scaleless.returncode == 1 and "its name must end with -x2.0;" in scaleless.stderr
    assert not [*tmp_path.glob("*.safetensors")]
    assert scale_of("my_sdxl-x2.0") == 2 and base_of("my_sdxl-x2.0") == "SDXL"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--decoded", "1"), "need --vae"),
        (("--held-out", "."), "need --vae"),
        (("--out", "mine_sdxl"), "--out mine_sdxl: its name must end with .safetensors"),
        (("--patch", "12"), "--patch 12: swinfir needs a multiple of 8"),
        (("--architecture", "dat", "--patch", "16", "--batch", "1"), "--batch 1: dat normalises over the patches"),
        (("--patch", "256"), "less than a patch of 256"),
        (("--steps", "0"), "invalid positive value: '0'"),
        (("--embed", "16"), "embed is 16; swinfir needs a multiple of 12"),
        (("--resume",), "mine_sdxl.training to go on with"),
        (("--rate", "1e30", "--steps", "5"), "the loss is nan"),
        (("--pairs", "nowhere"), "nowhere: holds no pairs of latents"),
    ],
)
def test_what_cannot_be_is_told_in_a_line_and_writes_nothing(more: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = run("--pairs", made_pairs(tmp_path / "pairs"), "--out", tmp_path / "mine_sdxl.safetensors", *SMALL, *more)

    assert done.returncode and told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not [*tmp_path.glob("*.safetensors")]


def test_a_state_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    pairs = Pairs(made_pairs(tmp_path / "pairs"))
    recipe = Recipe(2, 2, 8, "adamw", 1e-3, 0.9, half=False, seed=1)
    first = new_training(recipe)
    assert len([*first.steps(pairs, None)]) == 2
    first.save(tmp_path / "state")

    with pytest.raises(ValueError, match="is of the optimizer adamw; go on with that one"):
        new_training(replace(recipe, optimizer="adam")).resume(tmp_path / "state", 4)
    wider = network_of("swinfir", 4, 2, {"embed": 24, "groups": 1})
    with pytest.raises(ValueError, match="is of another network"):
        Training(wider, recipe, Weights(), SecondStage(), ALONE).resume(tmp_path / "state", 4)


def test_a_run_that_goes_on_takes_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    pairs = Pairs(made_pairs(tmp_path / "pairs"))
    recipe = Recipe(2, 2, 8, "adamw", 1e-3, 0.9, half=False, seed=1)
    first = new_training(recipe)
    assert len([*first.steps(pairs, None)]) == 2
    first.save(tmp_path / "state")
    ends = []
    for rate in (0.0, 1e-3):
        longer = new_training(replace(recipe, steps=4, rate=rate))
        longer.resume(tmp_path / "state", 4)
        before = [parameter.detach().clone() for parameter in longer.network.parameters()]
        assert len([*longer.steps(pairs, None)]) == 2
        ends.append(all(map(torch.equal, before, longer.network.parameters())))
    assert ends == [True, False]


def test_pairs_of_two_kinds_are_not_mixed(tmp_path: Path) -> None:
    folder = made_pairs(tmp_path / "pairs", count=1)
    latents = {"small": torch.zeros(4, 8, 8), "large": torch.zeros(4, 16, 16)}
    write_pair(folder / "other.safetensors", latents, About(2, 4, "cd34", "SDXL"))

    with pytest.raises(ValueError, match="pairs of 2 kinds"):
        Pairs(folder)
    with pytest.raises(FileNotFoundError, match=r"encode\.py makes them"):
        Pairs(tmp_path)


def test_sizes_that_heads_do_not_divide_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embed is 16; swinfir needs a multiple of 12"):
        network_of("swinfir", 4, 2, {"embed": 16})
    with pytest.raises(ValueError, match=r"swinfir enlarges by 2, 3 or 4, and these pairs are for 1\.5"):
        network_of("swinfir", 4, 1.5, {})


def test_pictures_become_pairs_by_an_autoencoder_of_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from PIL import Image

    narrow = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    diffusers.AutoencoderTiny(**narrow, **blocks).save_pretrained(tmp_path / "vae")
    (tmp_path / "pictures").mkdir()
    Image.effect_noise((200, 130), 80).convert("RGB").save(tmp_path / "pictures" / "noise.png")
    command = [sys.executable, ROOT / "train" / "encode.py", "--vae", tmp_path / "vae", "--with-pictures"]
    done = subprocess.run(
        [*command, "--pictures", tmp_path / "pictures", "--out", tmp_path / "pairs", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    pairs = Pairs(tmp_path / "pairs")
    held = pairs.whole(0)
    assert {name: (*tensor.shape,) for name, tensor in held.items()} == {
        "small": (4, 8, 12), "large": (4, 16, 24), "picture": (3, 128, 192)
    }  # fmt: skip
    assert (pairs.about.channels, len(pairs.about.sha256)) == (4, 64)
