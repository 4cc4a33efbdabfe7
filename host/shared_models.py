"""Models that were loaded by name: of one file there is one in memory, and the last ones used stay a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from weakref import WeakValueDictionary

from spandrel import ImageModelDescriptor

from ..models.labels import stamp_of

_MOST_KEPT = 2  # models: who compares two goes to and fro between them
_MOST_BYTES = 1 << 30  # of their weights together; of larger ones the last alone


class SharedModels:
    """What `load` makes of files, once for each file as it is: another size or date makes it another.

    A model is shared for as long as anybody has it. `keep` holds on to the last ones used, until `let_go`.
    """

    def __init__(
        self,
        load: Callable[[Path], ImageModelDescriptor],
        most_kept: int = _MOST_KEPT,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._load, self._most_kept, self._most_bytes = load, most_kept, most_bytes
        self._alive: WeakValueDictionary[tuple[Path, str], ImageModelDescriptor] = WeakValueDictionary()
        self._kept: OrderedDict[Path, ImageModelDescriptor] = OrderedDict()
        self._loading = threading.RLock()
        self._lock = threading.Lock()  # of what is kept, which is let go of while another thread loads
        self._let_go = 0  # times

    def get(self, path: Path) -> ImageModelDescriptor:
        """The model in the file, loaded if nobody has it. Raises what `load` raises."""
        with self._loading:
            key = path, stamp_of(path)  # before it is read: a file that is replaced meanwhile is read again
            model = self._alive.get(key) if key[1] else None
            if model is None:
                with self._lock:
                    self._kept.pop(path, None)  # before there are two of it
                model = self._load(path)
                self._alive[key] = model
            return model

    def keep(self, path: Path) -> ImageModelDescriptor:
        """The same, which then stays with the last ones used; not where all were let go of while it was loaded."""
        with self._loading:
            before = self._let_go
            model = self.get(path)
            with self._lock:
                if self._let_go == before:
                    self._kept[path] = model
                    self._kept.move_to_end(path)
                while len(self._kept) > 1 and (len(self._kept) > self._most_kept or self._bytes() > self._most_bytes):
                    self._kept.popitem(last=False)
            return model

    def let_go(self) -> list[ImageModelDescriptor]:
        """Keep none any more; those that were kept, for the caller to let go of where nobody is at work with them."""
        with self._lock:
            self._let_go += 1
            models = [*self._kept.values()]
            self._kept.clear()
            return models

    def _bytes(self) -> int:
        return bytes_of(self._kept.values())


def bytes_of(models: Iterable[ImageModelDescriptor]) -> int:
    """What their weights take."""
    return sum(weight.nbytes for model in models for weight in model.model.parameters())
