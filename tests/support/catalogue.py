"""docs/locales.py, which is a script and no module of the pack."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).absolute().parent.parent.parent


def locales() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locales_script", ROOT / "docs" / "locales.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
