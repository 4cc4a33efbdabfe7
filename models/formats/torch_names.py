"""The names in pickles of weights: what each becomes here. A closed list; a name that is not on it is refused."""

from __future__ import annotations

from typing import Any

from .element_types import ELEMENT_TYPES, ElementType
from .errors import DamagedError, ForbiddenNameError, RefusedError, shown
from .pickle_reader import MOST_ARGUMENTS, Builder, Ignored, Names
from .records import MOST_ELEMENTS, StorageRecord, TensorRecord

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_MODULES_OF_STORAGES = ("torch", "torch.cuda", "torch.storage")

_OF_PYTHON_2 = {"unicode": "str", "long": "int", "xrange": "range"}
# What checkpoints hold beside weights, as often as not; none of it is built.
_IGNORED = {
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex"), ("builtins", "slice"),
    ("builtins", "bytearray"), ("builtins", "range"), ("builtins", "object"), ("builtins", "list"),
    ("builtins", "dict"), ("builtins", "tuple"), ("builtins", "int"), ("builtins", "float"), ("builtins", "str"),
    ("builtins", "bool"),
    ("_codecs", "encode"), ("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor"),
    ("argparse", "Namespace"), ("types", "SimpleNamespace"),
    ("datetime", "datetime"), ("datetime", "timedelta"), ("datetime", "date"),
    ("pathlib", "Path"), ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"), ("pathlib", "PurePosixPath"),
    ("pathlib", "PureWindowsPath"),
    ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.dtypes", "Float64DType"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("torch._utils", "_rebuild_sparse_tensor"), ("torch._utils", "_rebuild_qtensor"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"), ("torch._utils", "_rebuild_nested_tensor"),
    ("torch", "Tensor"), ("torch", "device"), ("torch", "Generator"), ("torch.serialization", "_get_layout"),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("lightning.pytorch.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("omegaconf.dictconfig", "DictConfig"), ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.base", "ContainerMetadata"), ("omegaconf.base", "Metadata"), ("omegaconf.nodes", "AnyNode"),
    ("typing", "Any"),
}  # fmt: skip


def names_of_torch(storages: dict[str, StorageRecord]) -> Names:
    """What the names and references in a pickle by `torch.save` mean; `storages` gets those referred to, by key.

    Tensors become `TensorRecord`, parameters too; storages `StorageRecord`; types `ElementType`.
    """

    def refer(reference: object) -> StorageRecord:
        record = _storage(reference)
        known = storages.setdefault(record.key, record)
        if (known.dtype, known.count) != (record.dtype, record.count):
            raise DamagedError(f"the storage {shown(record.key)} is said to be of two sizes")
        return record

    return Names(_resolve, refer)


def _resolve(module: str, name: str) -> object:
    if module == "__builtin__":  # as Python 2 called it, and protocol 2 still does
        module, name = "builtins", _OF_PYTHON_2.get(name, name)
    if (module, name) in _BUILDERS:
        return _BUILDERS[module, name]
    if module in _MODULES_OF_STORAGES and name in _STORAGES:
        return ELEMENT_TYPES[_STORAGES[name]]
    if module == "torch" and name in ELEMENT_TYPES:
        return ELEMENT_TYPES[name]
    if (module, name) in _IGNORED:
        return Ignored()
    raise ForbiddenNameError(f"{module}.{name}")


def _storage(reference: object) -> StorageRecord:
    """From ("storage", type, key, where it was, count), and in the oldest files a view: (key, first, count) or None."""
    if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
        raise DamagedError("its pickle refers to what is no storage")
    _, dtype, key, _, count = reference[:5]
    view = reference[5] if len(reference) == 6 else None
    if not isinstance(dtype, ElementType) or type(key) is not str or type(count) is not int:
        raise DamagedError("its pickle describes a storage that is none")
    if not 0 <= count < MOST_ELEMENTS:
        raise DamagedError("its pickle describes a storage larger than memory can be")
    if view is None:
        return StorageRecord(key, dtype, count)
    _, first, length = view
    if type(first) is not int or type(length) is not int or not 0 <= first <= first + length <= count:
        raise DamagedError("its pickle describes a part of a storage that is none")
    return StorageRecord(key, dtype, count, first)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> TensorRecord:
    """The others are: does it need a gradient, hooks, what else is to be known of it."""
    if not isinstance(storage, StorageRecord) or type(shape) is not tuple or type(strides) is not tuple:
        raise DamagedError("its pickle describes a tensor that is none")
    if len(others) > 2 and others[2]:
        raise RefusedError("holds a tensor that is another one's conjugate or negative; save the model again")
    return TensorRecord(storage, offset, shape, strides)


def _tensor_of_type(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> TensorRecord:
    """The others are: does it need a gradient, hooks, type."""
    dtype = others[2]
    if not isinstance(storage, StorageRecord) or not isinstance(dtype, ElementType):
        raise DamagedError("its pickle describes a tensor that is none")
    return _tensor(storage.seen_as(dtype), offset, shape, strides)


def _parameter(data: object, *_: object) -> object:
    return data


def _of_subclass(function: Any, kind: object, arguments: Any, state: object) -> object:
    """A tensor with attributes of its own: the tensor."""
    if function not in _PLAIN_TENSORS or type(arguments) is not tuple or len(arguments) > MOST_ARGUMENTS:
        raise DamagedError("its pickle describes a tensor that is none")
    return function.build(*arguments)


def _dictionary(*arguments: Any) -> object:
    """Python 3 writes an empty one and fills it; Python 2 a list of [key, value], which is used up, so that a pickle
    which names one long list a million times makes one dictionary of it."""
    if not arguments:
        return {}
    (pairs,) = arguments
    if type(pairs) is not list or not all(type(pair) in (list, tuple) and type(pair[0]) is str for pair in pairs):
        raise DamagedError("its pickle describes a dictionary that is none")
    made = dict(pairs)
    pairs.clear()
    return made


def _shape(*sides: Any) -> object:
    return sides[0] if sides else ()


_PLAIN_TENSORS = (Builder(_tensor), Builder(_tensor_of_type))
_BUILDERS = {
    ("collections", "OrderedDict"): Builder(_dictionary),
    ("typing", "OrderedDict"): Builder(_dictionary),
    ("collections", "defaultdict"): Builder(lambda *_: {}),
    ("collections", "Counter"): Builder(lambda *_: {}),
    ("torch", "Size"): Builder(_shape),
    ("torch._utils", "_rebuild_tensor"): Builder(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Builder(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Builder(_tensor_of_type),
    ("torch._utils", "_rebuild_parameter"): Builder(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Builder(_parameter),
    ("torch.nn.parameter", "Parameter"): Builder(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Builder(_of_subclass),
}
