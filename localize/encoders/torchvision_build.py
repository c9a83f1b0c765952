"""A torchvision that was built for another torch is no reason to fail.

Knows torchvision's one fault; must not know models. transformers and open_clip import torchvision
where it is installed, if only for names of resampling filters. Installed beside a torch of another
build (often torch for the CPU, torchvision for CUDA) its compiled operators do not load, and its
own import ends with "operator torchvision::nms does not exist".
"""

from __future__ import annotations

import importlib
import importlib.util
import re

import torch

_MISSING = re.compile(r"operator (torchvision::\w+) does not exist")
_MAX_MISSING = 16  # torchvision 0.28 asks for two, nms and qnms


def allow_any_torchvision() -> None:
    """Import torchvision, if there is one, so that transformers and open_clip can import it too.

    An operator that it misses is declared without an implementation: calling it fails as before,
    importing torchvision does not.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    for _ in range(_MAX_MISSING):
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                return  # another fault: whoever needs torchvision will tell
            boxes_and_scores = "(Tensor dets, Tensor scores, float threshold) -> Tensor"
            torch.library.define(missing[1], boxes_and_scores)
