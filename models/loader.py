"""Model files: which there are, and loading one without ever running code that came with it.

Torch and spandrel are imported by what needs them: the command line looks for models, and is not to wait for that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api.errors import BadModelError, first_line
from .formats.errors import shown
from .header import MODEL_ENDINGS, opened_model
from .latent_upscalers import USE_ITS_OWN_LOADER, is_of_latents, is_read_as_pictures

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor, ModelBase

logger = logging.getLogger("cudaspeed")

DEFAULT_MODEL = "cudaspeed-compact-x2"

# Beginnings of weight names, asked for only once spandrel found no upscaler in the file, so that none can be refused.
_OTHER_KINDS = {
    "a LoRA": ("lora_", "base_model.model."),
    "a text-to-image checkpoint": (
        "model.diffusion_model.",
        "diffusion_model.",
        "cond_stage_model.",
        "conditioner.",
        "double_blocks.",
        "joint_blocks.",
        "transformer_blocks.",
        "down_blocks.",
        "text_encoders.",
    ),
    "a text encoder": ("text_model.", "text_projection"),
    "an autoencoder (VAE)": ("first_stage_model.", "encoder.down", "decoder.up", "decoder.mid"),
    "a ControlNet": ("control_model.", "controlnet_"),
}


def bundled_folder() -> Path:
    """The folder of the models that ship with this pack."""
    return Path(__file__).absolute().parent / "bundled"


def model_folders() -> tuple[Path, ...]:
    """Where models are looked for, first come first: ours, those in CUDASPEED_MODELS, ComfyUI's when we live in one."""
    folders = [bundled_folder()]
    folders += named_folders()
    neighbours = Path(__file__).absolute().parent.parent.parent
    if neighbours.name == "custom_nodes":
        folders.append(neighbours.parent / "models" / "upscale_models")
    return tuple(folders)


def named_folders() -> list[Path]:
    """Those in CUDASPEED_MODELS."""
    return [Path(folder) for folder in os.environ.get("CUDASPEED_MODELS", "").split(os.pathsep) if folder]


def find_models(folders: Iterable[Path] | None = None) -> dict[str, Path]:
    """File name -> path of every model in the `folders` that exist, if not given `model_folders()`; of two with one
    name the first folder's.

    What can be neither listed nor looked at is warned of and left out."""
    found: dict[str, Path] = {}
    for folder in model_folders() if folders is None else folders:
        for path in _content(folder):
            if path.suffix.lower() in MODEL_ENDINGS and _is_file(path):
                found.setdefault(path.name, path)
    return found


def resolve_model(name_or_path: str) -> Path:
    """The model file meant by a path, or by the name of a found model with or without its ending.

    Raises `BadModelError`, listing the names there are, when it is neither.
    """
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    models = find_models()
    if name_or_path in models:
        return models[name_or_path]
    for path in models.values():
        if path.stem == name_or_path:
            return path
    names = ", ".join(models) or f"none in {', '.join(map(str, model_folders()))}"
    raise BadModelError(f"{name_or_path}: there is no such model file, nor a model of that name; there are: {names}")


def check_file(name_or_path: str) -> None:
    """Raise `BadModelError` where `load_model` would for what a file's name or header tells: that there is none, that
    it is damaged, of another kind, or holds code. Whether spandrel knows the model is another question."""
    with opened_model(resolve_model(name_or_path)):
        pass


def load_model(model: str | os.PathLike[str]) -> ImageModelDescriptor:
    """Load an upscaling model (safetensors, weights by `torch.save`, or what `cudaspeed export` wrote, whose programs
    are kept in mind) to the CPU, in evaluation mode.

    `model` is a file's path or, as text, the name of a found model too, such as "cudaspeed-compact-x2" (bundled).
    Raises `BadModelError` for what `read_weights` refuses, for an unknown architecture, for weights that do not fit
    together, and for a model that does not turn one picture into one.
    """
    from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

    from ..memory import is_out_of_memory
    from .construction import BoundedConstruction
    from .exported import note_exported
    from .meshgrid import ExplicitMeshgrid
    from .weights import read_weights

    path = resolve_model(model) if isinstance(model, str) else Path(model)
    weights = read_weights(path)
    if is_of_latents(weights):
        raise BadModelError(f"{path}: {USE_ITS_OWN_LOADER}")
    try:
        with ExplicitMeshgrid(), BoundedConstruction(weights):
            descriptor = ModelLoader().load_from_state_dict(weights)
    except UnsupportedModelError as error:
        raise BadModelError(f"{path}: {not_an_upscaler(weights)}") from error
    except Exception as error:  # architectures raise all sorts on weights that do not fit together
        if is_out_of_memory(error):
            raise MemoryError(f"{path}: there is no memory for the model; close other programs") from error
        raise BadModelError(
            f"{path}: its weights do not fit together; the file may be incomplete or a mixture "
            f"({shown(_misfit(error), most=300)})"
        ) from error
    if not isinstance(descriptor, ImageModelDescriptor):
        raise BadModelError(f"{path}: {_not_single_image(descriptor)}")
    note_exported(descriptor.model, path)
    return descriptor.eval()


def check_model(model: object) -> ImageModelDescriptor:
    """Return `model` if it is spandrel's description of a single-image model, as ComfyUI's loaders hand out.

    Raises `BadModelError` otherwise, saying what it is instead.
    """
    from spandrel import ImageModelDescriptor, ModelBase

    if isinstance(model, ImageModelDescriptor):
        if is_read_as_pictures(model):
            raise BadModelError(f"the model ({model.architecture.name}) {USE_ITS_OWN_LOADER}")
        return model
    if isinstance(model, ModelBase):
        raise BadModelError(f"the model {_not_single_image(model)}")
    raise BadModelError(
        f"the upscale model is a {type(model).__name__}, not a model; connect the output of an UpscaleModelLoader"
    )


def _content(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:  # ComfyUI's folder or one of the user's that is not there yet
        return []
    except OSError as error:
        logger.warning("cannot look for models in %s: %s", folder, error.strerror or error)
        return []


def _is_file(path: Path) -> bool:
    """Whether `path` is a file, or a link to one; what is in the way of telling is warned of."""
    try:
        return path.is_file()
    except OSError as error:  # what it links to lies where this user may not look
        logger.warning("cannot look at the model %s: %s", path, error.strerror or error)
        return False


def _misfit(error: Exception) -> str:
    """What does not fit, by what an architecture raised: torch says so a line below whose weights they are."""
    line, *more = str(error).splitlines() or [first_line(error)]
    return more[0].strip() if more and line.endswith(":") else line


def not_an_upscaler(names: Iterable[str]) -> str:
    """What a file with weights of these `names` is, as the end of a sentence on it."""
    for kind, beginnings in _OTHER_KINDS.items():
        if any(name.startswith(beginnings) for name in names):
            return f"is {kind}, which cannot upscale a picture by itself; choose an upscaling model"
    return "has an architecture that spandrel does not know; choose another upscaling model, or a newer spandrel"


def _not_single_image(descriptor: ModelBase[Any]) -> str:
    from spandrel import MaskedImageModelDescriptor

    name = descriptor.architecture.name
    if isinstance(descriptor, MaskedImageModelDescriptor):
        return f"is an inpainting model ({name}), which needs a mask; choose an upscaling model"
    return f"({name}) does not turn one picture into one picture; choose an upscaling model"
