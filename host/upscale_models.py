"""The upscale models that the host has, and ours among them."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

from pathlib import Path

from spandrel import ImageModelDescriptor

from ..api.surroundings import inside_comfyui
from ..models.loader import bundled_folder, find_models, load_model

_FOLDER = "upscale_models"


def offer_bundled_models() -> None:
    """Put the bundled models into the host's list of upscale models, core's loader included."""
    if inside_comfyui():
        import folder_paths

        folder_paths.add_model_folder_path(_FOLDER, str(bundled_folder()))


def upscale_model_names() -> list[str]:
    """The names that an upscale model loader offers."""
    if inside_comfyui():
        import folder_paths

        return folder_paths.get_filename_list(_FOLDER)
    return sorted(find_models())


def load_upscale_model(name: str) -> ImageModelDescriptor:
    """Load a model by one of `upscale_model_names`; in ComfyUI with the `.patcher` that core's own node needs.

    Raises `BadModelError` for a name that is gone and for a file that is no single-image model.
    """
    if not inside_comfyui():
        return load_model(find_models().get(name, Path(name)))
    import folder_paths
    from comfy import model_management
    from comfy.model_patcher import ModelPatcher

    descriptor = load_model(Path(folder_paths.get_full_path(_FOLDER, name) or name))
    descriptor.patcher = ModelPatcher(  # type: ignore[attr-defined]  # core adds it, spandrel does not know it
        descriptor.model,
        load_device=model_management.get_torch_device(),
        offload_device=model_management.unet_offload_device(),
    )
    return descriptor
