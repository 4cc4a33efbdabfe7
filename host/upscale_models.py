"""The upscale models that the host has, and ours among them: by name, what they are, and loaded."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from spandrel import ImageModelDescriptor

from ..api.errors import BadModelError
from ..api.surroundings import inside_comfyui
from ..models.formats.exported_file import ENDING as EXPORTED_ENDING
from ..models.header import opened_model
from ..models.labels import ModelLabels, is_of_content, label_of, stamp_of
from ..models.loader import bundled_folder, find_models, load_model
from ..storage.heap import TRIMMER
from ..storage.loaded import LoadedStore
from ..storage.location import compiled_folder
from .comfyui import comfyui_compiled_folder
from .shared_models import SharedModels, bytes_of

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

        # ComfyUI's list has the endings that its own loaders take; exported models are for ours alone
        found = find_models(map(Path, folder_paths.get_folder_paths(_FOLDER)))
        exported = [name for name, path in found.items() if path.suffix.lower() == EXPORTED_ENDING]
        return [*folder_paths.get_filename_list(_FOLDER), *exported]
    return sorted(find_models())


def upscale_model_labels() -> dict[str, str]:
    """Name -> scale and architecture, of those that are known by now: read from headers, and remembered."""
    paths = {name: path for name in upscale_model_names() if (path := _path_of(name))}
    labels = _labels().of(paths.values())
    return {name: labels[path] for name, path in paths.items() if path in labels}


def upscale_model_stamp(name: str) -> str:
    """Another text when the file of that name is another one; empty where there is none."""
    path = _path_of(name)
    return stamp_of(path) if path else ""


def check_upscale_model(name: str) -> str:
    """What is wrong with the model of that name, by its header; empty where nothing is."""
    path = _path_of(name)
    if path is None:
        return _gone(name)
    try:
        return _wrong_with(path, stamp_of(path))
    except BadModelError as error:
        return _with_size(error, path)


def load_upscale_model(name: str, keep: bool = False) -> ImageModelDescriptor:
    """A model by one of `upscale_model_names`, for all who ask the same one; in ComfyUI with the `.patcher` that core's
    own node needs. With `keep` it stays for a while after its last use, until ComfyUI unloads its models.

    Raises `BadModelError` for a name that is gone and for a file that is no single-image model: with its path and size.
    """
    path = _path_of(name)
    if path is None:
        raise BadModelError(_gone(name))
    return _SHARED.keep(path) if keep else _SHARED.get(path)


def summary_of(model: ImageModelDescriptor) -> str:
    """What a model is, in a line."""
    weights = sum(weight.nbytes for weight in model.model.parameters())
    channels = f"{model.input_channels} -> {model.output_channels} channels"
    return f"{label_of(model.scale, model.architecture.name)}, {channels}, {weights / 1e6:.1f} MB"


def _path_of(name: str) -> Path | None:
    if not isinstance(name, str):  # a prompt may hold anything
        return None
    if not inside_comfyui():
        return find_models().get(name)
    import folder_paths

    path = folder_paths.get_full_path(_FOLDER, name)
    return Path(path) if path else None


def _gone(name: str) -> str:
    name = name or repr(name)  # or there would be nothing to read
    return f"{name}: does not exist in any folder of upscale models (any more); press R and choose another"


@lru_cache(maxsize=64)
def _wrong_with(path: Path, stamp: str) -> str:
    """What its header tells of the file, which is this one as long as the stamp is the same. Raises `BadModelError`
    where it could not be read now, which may be otherwise the next time."""
    try:
        with opened_model(path):
            return ""
    except BadModelError as error:
        if not is_of_content(error):
            raise
        return _with_size(error, path)


def _with_size(error: BadModelError, path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError:  # it says that it is not there
        return str(error)
    return f"{error}. The file has {size:,} bytes"


def _load(path: Path) -> ImageModelDescriptor:
    try:
        descriptor = load_model(path)
    except BadModelError as error:
        raise BadModelError(_with_size(error, path)) from error
    _labels().learn(path, label_of(descriptor.scale, descriptor.architecture.name))
    if inside_comfyui():
        from comfy import model_management
        from comfy.model_patcher import ModelPatcher

        descriptor.patcher = ModelPatcher(  # type: ignore[attr-defined]  # core adds it, spandrel does not know it
            descriptor.model,
            load_device=model_management.get_torch_device(),
            offload_device=model_management.unet_offload_device(),
        )
    return descriptor


def _labels() -> ModelLabels:
    return _labels_in(comfyui_compiled_folder() if inside_comfyui() else compiled_folder())


@lru_cache(maxsize=1)
def _labels_in(folder: Path) -> ModelLabels:
    return ModelLabels(LoadedStore(folder, "headers.json"))


_SHARED = SharedModels(_load)


def let_go_of_models() -> int:
    """Keep none any more for later runs; how many bytes were kept. They go in a moment: the host, which is asked to
    unload at the same time on another thread, is in the midst of its list of models, out of which each takes itself
    when it goes. What a node is at work with stays until that is done."""
    models = _SHARED.let_go()
    size = bytes_of(models)
    TRIMMER.soon(models.clear)
    return size
