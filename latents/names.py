"""What a latent upscaler's file is called, where its weights do not tell: what it is for, and how far it enlarges."""

from __future__ import annotations

import re

# As the four publishers name them; of two that fit the first one counts.
_BASES = (
    (r"flux\W?2", "Flux2"),
    (r"flux", "Flux"),
    (r"wan\W?2?1?|qwen", "Wan, Qwen"),
    (r"sd\W?xl|[_-]xl\b", "SDXL"),
    (r"sd\W?v?1\W?5?(?![0-9])|_1\.5$", "SD 1.5"),
)
BASES = tuple(base for _, base in _BASES)
_SCALE = re.compile(r"[-_]x(1\.25|1\.5|2\.0)$", re.IGNORECASE)


def base_of(stem: str) -> str:
    """What the model is for, by its file's name without the ending; "" where that does not say."""
    return next((base for pattern, base in _BASES if re.search(pattern, stem, re.IGNORECASE)), "")


def scale_of(stem: str) -> float | None:
    """What city96's files enlarge by ("latent-upscaler-v2.1_SDxl-x1.5"), whose weights are the same for all scales."""
    found = _SCALE.search(stem)
    return float(found[1]) if found else None
