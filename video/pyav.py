"""PyAV, which reads and writes films: imported when a film is opened, and only a version that does it well."""

from __future__ import annotations

import re
from types import ModuleType

from ..api.errors import MissingLibraryError

LEAST = (17, 1)
"""Version: 16 decodes what is tagged as BT.709 by BT.601, and lacks names; 17.0 cannot write how a film is turned."""
_REMEDY = 'pip install "av>=17.1" installs it (or pip install "cudaspeed[video]")'


def load_av() -> ModuleType:
    """The module `av`. Raises `MissingLibraryError` where it is missing, broken or older than `LEAST`."""
    try:
        import av
    except ImportError as error:
        raise MissingLibraryError(f"films need PyAV, which cannot be imported ({error}); {_REMEDY}") from error
    version = str(getattr(av, "__version__", "unknown"))
    number = re.match(r"(\d+)\.(\d+)", version)
    if not number or (int(number[1]), int(number[2])) < LEAST:
        raise MissingLibraryError(f"films need PyAV {LEAST[0]}.{LEAST[1]} or newer, and this is {version}; {_REMEDY}")
    return av
