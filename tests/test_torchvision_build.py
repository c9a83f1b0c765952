"""A torchvision that does not fit torch stands in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MISMATCHED = """
import torch


for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, threshold: dets)
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    lines = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", lines], check=False, capture_output=True, text=True
    )


def test_a_torchvision_without_its_operators_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(MISMATCHED)
    alone = run("import torchvision", tmp_path)
    assert "operator torchvision::nms does not exist" in alone.stderr
    allowed = run(
        "from localize.encoders.torchvision_build import allow_any_torchvision\n"
        "allow_any_torchvision()\n"
        "import torchvision\n"
        "allow_any_torchvision()\n"
        "print(torchvision.__file__)",
        tmp_path,
    )
    assert allowed.stdout.strip() == str(tmp_path / "torchvision.py"), allowed.stderr


def test_without_torchvision_nothing_is_imported(tmp_path: Path) -> None:
    code = (
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name: None\n"
        "from localize.encoders.torchvision_build import allow_any_torchvision\n"
        "allow_any_torchvision()\n"
        "print('torchvision' in sys.modules)"
    )
    assert run(code, tmp_path).stdout.strip() == "False"
