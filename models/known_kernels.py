"""For which models our kernels on a CPU need no trial: those whose every kind of layer was seen to give the same.

tests/models/test_known_kernels.py builds each network that is named here, and compares it with torch's operations. What
is not named either fails (IPT and FFTformer in channels-last memory), gets nothing from it, or is not known.
"""

from __future__ import annotations

from collections.abc import Mapping

from spandrel import ImageModelDescriptor

from ..api.model_info import Kernels
from .known_fields import is_spandrels

# Kernels -> spandrel's id of the architecture -> the classes of its networks.
_VERIFIED: Mapping[Kernels, Mapping[str, tuple[str, ...]]] = {
    "attention": {
        "ATD": ("ATD",),
        "CRAFT": ("CRAFT",),
        "DAT": ("DAT",),
        "DRCT": ("DRCT",),
        "FDAT": ("FDAT",),
        "GRL": ("GRL",),
        "HAT": ("HAT",),
        "RGT": ("RGT",),
        "Swin2SR": ("Swin2SR",),
        "SwinIR": ("SwinIR",),
        "Uformer": ("Uformer",),
    },
    "winograd": {
        "ATD": ("ATD",),
        "Compact": ("SRVGGNetCompact",),
        "CRAFT": ("CRAFT",),
        "DAT": ("DAT",),
        "DCTLSA": ("DCTLSA",),
        "DITN": ("DITN_Real",),
        "DnCNN": ("DnCNN",),
        "DRCT": ("DRCT",),
        "DRUNet": ("DRUNet",),
        "ESRGAN": ("RRDBNet",),
        "FBCNN": ("FBCNN",),
        "FDAT": ("FDAT",),
        "GRL": ("GRL",),
        "HAT": ("HAT",),
        "HVICIDNet": ("CIDNet",),
        "KBNet": ("KBNet_s",),
        "MMRealSR": ("MMRRDBNet_test",),
        "MoESR": ("MoESR",),
        "MoSR": ("MoSR",),
        "NAFNet": ("NAFNet",),
        "OmniSR": ("OmniSR",),
        "PLKSR": ("PLKSR", "RealPLKSR"),
        "RCAN": ("RCAN",),
        "RealCUGAN": ("UpCunet2x", "UpCunet2x_fast", "UpCunet3x", "UpCunet4x"),
        "RetinexFormer": ("RetinexFormer",),
        "RGT": ("RGT",),
        "SAFMN": ("SAFMN",),
        "SAFMNBCIE": ("SAFMN_BCIE",),
        "SCUNet": ("SCUNet",),
        "SeemoRe": ("SeemoRe",),
        "SPAN": ("SPAN",),
        "Swin2SR": ("Swin2SR",),
        "SwinIR": ("SwinIR",),
        "Uformer": ("Uformer",),
    },
}


def verified(descriptor: ImageModelDescriptor, kernels: Kernels) -> bool:
    """Whether the model's network, of any size, is known to give with `kernels` in float32 on a CPU what it gives with
    torch's operations, and has something for them to do. "winograd": in channels-last memory. "plain" always does;
    "fused" was never seen on the device that it is for."""
    if kernels == "plain":
        return True
    networks = _VERIFIED.get(kernels, {}).get(descriptor.architecture.id, ())
    return type(descriptor.model).__name__ in networks and is_spandrels(descriptor)
