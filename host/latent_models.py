"""The latent upscalers that the host has: by name, and loaded."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

from pathlib import Path

from ..api.errors import BadModelError
from ..api.surroundings import inside_comfyui
from ..latents.loader import load_latent_model
from ..latents.model import LatentModel
from ..models.labels import stamp_of
from ..models.loader import find_models, named_folders

FOLDER = "latent_upscale_models"
"""ComfyUI's own, shared with its upsamplers of films' latents."""


def latent_model_names() -> list[str]:
    """The names that a loader offers: ComfyUI's, or those of the files in CUDASPEED_MODELS."""
    if inside_comfyui():
        import folder_paths

        return folder_paths.get_filename_list(FOLDER)
    return sorted(find_models(named_folders()))


def latent_model_stamp(name: str) -> str:
    """Another text when the file of that name is another one; empty where there is none."""
    path = _path_of(name)
    return stamp_of(path) if path else ""


def load_latent_upscaler(name: str, scale: float | None) -> LatentModel:
    """A latent upscaler by one of `latent_model_names`; `scale` and what is raised are `load_latent_model`'s."""
    path = _path_of(name)
    if path is None:
        raise BadModelError(
            f"{name or repr(name)}: does not exist in any folder of {FOLDER} (any more); press R and choose another"
        )
    return load_latent_model(path, scale)


def summary_of(model: LatentModel) -> str:
    """What a latent upscaler is, in a line."""
    traits, weights = model.traits, sum(weight.nbytes for weight in model.model.parameters())
    least, most = traits.scales
    scale = f"{most:g}" if traits.fixed else f"{least:g} to {most:g}"
    told = [f"x{scale} {traits.family}", traits.base, f"{traits.channels} channels", f"{weights / 1e6:.1f} MB"]
    return ", ".join(filter(None, told))


def _path_of(name: str) -> Path | None:
    if not isinstance(name, str):  # a prompt may hold anything
        return None
    if not inside_comfyui():
        return find_models(named_folders()).get(name)
    import folder_paths

    path = folder_paths.get_full_path(FOLDER, name)
    return Path(path) if path else None
