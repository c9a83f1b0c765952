"""What a run over many pictures is: where its outputs go, and what is finished.

Knows results, output files and settings; must not know the command line or terminals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localize.names import display_name

if TYPE_CHECKING:
    from localize.result import Localization

OVERLAY, HEATMAP = ".boxes.png", ".heatmap.png"


@dataclass(frozen=True)
class Run:
    """One question asked of many pictures, and the folder that its answers go to.

    prompts: the labels, in their order. heatmaps: whether each prompt's overlay is written too.
    settings: what else the answers hang on, as plain data; JSON keeps it beside them.
    """

    folder: Path
    prompts: tuple[str, ...]
    heatmaps: bool
    settings: Mapping[str, Any]

    def files(self, output: Path) -> list[Path]:
        """What is written of one image: its overlay, each prompt's heatmap, and at last its JSON.

        Where there is JSON, the image is finished.
        """
        prompts = enumerate(self.prompts if self.heatmaps else (), 1)
        endings = [f".{number}-{slug(prompt)}{HEATMAP}" for number, prompt in prompts]
        return [_beside(output, ending) for ending in (OVERLAY, *endings, ".json")]

    def write(self, result: Localization, output: Path) -> None:
        """Write the files of one image. Raises files.OutputError where one cannot be written."""
        from localize import files

        overlay, *heatmaps, facts = self.files(output)
        files.write_image(overlay, result.boxes_overlay())
        for prompt, heatmap in zip(result.prompts, heatmaps, strict=False):
            files.write_image(heatmap, result.overlay(prompt))
        files.write_json(facts, {**result.to_dict(), "settings": self.settings})

    def is_finished(self, path: Path, output: Path) -> bool:
        """Whether an earlier run with the same settings has finished this image as it is now."""
        *overlays, facts = self.files(output)
        try:
            with open(facts, encoding="utf-8") as file:
                found = json.load(file)
            newer = facts.stat().st_mtime >= path.stat().st_mtime
        except (OSError, ValueError, RecursionError):
            return False
        same = json.loads(json.dumps(dict(self.settings)))
        return (
            newer
            and all(map(os.path.isfile, overlays))
            and isinstance(found, dict)
            and found.get("prompts") == list(self.prompts)
            and found.get("settings") == same
        )

    def outputs(self, paths: Iterable[Path]) -> dict[Path, Path]:
        """Where the outputs of each image go: its place below the inputs' common folder.

        Left out are overlays of an earlier run into the same folder. Raises ValueError where an
        output has the path of an image that is to be read.
        """
        absolute = {path: Path(os.path.abspath(path)) for path in self._without_own(paths)}
        if not absolute:
            return {}
        common = os.path.commonpath([path.parent for path in absolute.values()])
        outputs = {path: self.folder / full.relative_to(common) for path, full in absolute.items()}
        self._refuse_to_overwrite(outputs)
        return outputs

    def _without_own(self, paths: Iterable[Path]) -> list[Path]:
        from localize import files

        own = os.path.join(os.path.realpath(self.folder), "")
        return [
            path
            for path in paths
            if not (
                path.name.endswith((OVERLAY, HEATMAP))
                and os.path.realpath(path).startswith(own)
                and files.is_written_here(path)
            )
        ]

    def _refuse_to_overwrite(self, outputs: Mapping[Path, Path]) -> None:
        written = {
            os.path.realpath(file) for output in outputs.values() for file in self.files(output)
        }
        for path in outputs:
            if os.path.realpath(path) in written:
                raise ValueError(
                    f"{display_name(path)} is an image to be read, but an output of another one "
                    "would take its name; choose another folder for --output"
                )


def slug(prompt: str) -> str:
    """A short form of a prompt that is safe in a file's name."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in prompt.lower())
    return safe[:40].strip("-") or "prompt"


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(output.name + ending)
