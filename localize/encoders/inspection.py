"""Whether a model would load, told from its small files.

Knows where files come from and which library reads them; must not know windows or boxes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localize.encoders.checkpoint import load_checkpoint
from localize.encoders.errors import CheckpointError
from localize.encoders.folders import check_weights
from localize.encoders.hub import (
    Files,
    cached_repositories,
    check_weights_found,
    download,
    find_cached,
    find_files,
    find_folder,
    look_up,
)
from localize.encoders.hugging_face import describe
from localize.encoders.layouts import Layout
from localize.encoders.open_clip_checkpoint import PREFIX, load_open_clip, tagged_repository
from localize.encoders.open_clip_encoder import describe as describe_open_clip


@dataclass(frozen=True)
class Inspection:
    """What is known of a model that would load."""

    layout: Layout
    origin: str  # where its weights are, in words
    sizes: dict[str, int]  # bytes of each file that is needed
    image_size: int  # side in pixels of the crops it takes
    tokens: bool  # whether it tells where in a crop something is


def inspect_model(name: str, *, unpickle: bool = False) -> Inspection:
    """Look at a model without fetching its weights.

    name: what `load_encoder` takes. Of a hub model that is not in the cache only the configuration,
    tokenizer and image settings are fetched, and the list of files. Raises CheckpointError, with
    the reason, for a model that would not load.
    """
    repository = tagged_repository(name) if name.startswith(PREFIX) else name
    if find_folder(repository) is not None:
        files = find_files(repository, unpickle=unpickle)
        folder, layout, origin = files.folder, files.layout, f"in {files.folder}"
    elif (cached := find_cached(repository, unpickle=unpickle)) is not None:
        folder, layout = cached
        origin = "on this machine already"
    else:
        remote = look_up(repository, unpickle=unpickle)
        layout = remote.layout
        conversion = f"converted by the hub (commit {remote.commit[:8]})"
        origin = conversion if remote.conversion else "on the hub"
        image_size, tokens = _describe(Files(name, download(remote, layout.others), layout))
        check_weights_found(remote, name)
        sizes = {file: remote.sizes[file] for file in layout.needed}
        return Inspection(layout, origin, sizes, image_size, tokens)
    files = Files(name, folder, layout)
    check_weights(files)
    return Inspection(layout, origin, _sizes(folder, layout), *_describe(files))


def installed_models(*, unpickle: bool = False) -> list[str]:
    """The hub models in the cache that would load, by name; asks nobody."""
    found = []
    for name in cached_repositories():
        with suppress(CheckpointError):
            if find_cached(name, unpickle=unpickle) is not None:
                inspect_model(name, unpickle=unpickle)
                found.append(name)
    return found


def _describe(files: Files) -> tuple[int, bool]:
    if files.layout.library == "open_clip":
        return describe_open_clip(load_open_clip(files, weights=False))
    return describe(load_checkpoint(files, weights=False))


def _sizes(folder: Path, layout: Layout) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in layout.needed}
