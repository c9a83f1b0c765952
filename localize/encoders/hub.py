"""From a model's name to a local folder with the files that are needed, fetched where missing.

Knows folders, the Hugging Face hub and its local cache; must not know any library that loads
models.

A hub model is taken from the cache without a request where the cache has all of it. Else the hub
is asked once for its list of files, `layouts.choose` says which of them are needed, and only those
are fetched. Where the main branch has nothing but pickles, the safetensors that the hub's own
converter offers in a pull request are taken: for the best known models at a commit that is written
down here, for others after checking who asks for what (`_conversion`).
"""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tqdm import tqdm

from localize.encoders.errors import ADVICE, EMBEDDED, CheckpointError, first_sentence
from localize.encoders.layouts import CONFIGS, Layout, Library, choose
from localize.files import OutputError, write_json

EMBEDDED_FOLDER = Path(__file__).parent / "emoji"
HUB_TIMEOUT = 10.0  # seconds to wait for the hub's first answer

CONVERTER = "SFconvertbot"  # the hub's account that offers safetensors in pull requests
PINNED = {
    # Commits of the converter that other projects load too; commits cannot be changed. One that is
    # not there only means that the pull request is looked up.
    "openai/clip-vit-base-patch16": "5ef227a78de3f75873f373246dac80def63b0003",
    "openai/clip-vit-base-patch32": "c237dc49a33fc61debc9276459120b7eac67e7ef",
    "OFA-Sys/chinese-clip-vit-base-patch16": "f4a64596bbcf9a2a94591b74b9dc39b2e4e77e3e",
}

NOT_WRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_log = logging.getLogger(__name__)


class HubUnreachableError(CheckpointError):
    """The hub gave no answer."""


@dataclass(frozen=True)
class Files:
    """A checkpoint on this machine."""

    name: str  # as it was asked for
    folder: Path
    layout: Layout  # the files in `folder` to be read, and for which library they are


@dataclass(frozen=True)
class Remote:
    """A checkpoint on the hub, none of it fetched yet."""

    repository: str
    revision: str  # what to ask the hub for: a branch or tag, or the commit itself
    commit: str
    sizes: dict[str, int]  # bytes of each file in the repository's own folder
    layout: Layout
    conversion: bool = False  # whether the weights are the converter's


def find_files(
    name: str | os.PathLike[str],
    *,
    unpickle: bool = False,
    check: Callable[[Files], None] | None = None,
) -> Files:
    """A checkpoint's files: ``"emoji"``, a local folder, or a hub id with or without ``@revision``.

    unpickle: take pickled weights where there are no safetensors; they are not opened here.
    check: called before weights are fetched, with nothing but the small files in the folder; what
        it raises is spared the download.
    A local folder may turn out to hold no weights (`Layout.weights` is empty); a hub model's files
    are all there. Raises CheckpointError where there is no such model or it cannot be fetched, and
    TypeError for what is no name.
    """
    folder = find_folder(name)
    if folder is not None:
        return Files(str(name), folder, _choose_local(folder, _names(folder), unpickle))
    repository, revision = split_name(str(name))
    found = find_cached(str(name), unpickle=unpickle)
    if found is None:
        try:
            remote = look_up(str(name), unpickle=unpickle)
            if check is not None:
                check(Files(str(name), download(remote, remote.layout.others), remote.layout))
            check_weights_found(remote, str(name))
            found = download(remote, remote.layout.needed), remote.layout
            _remember(remote, revision)
        except HubUnreachableError:
            # Files that another program left, of which only the hub could say that they are all.
            found = _cached(repository, revision, unpickle, whole=False)
            if found is None:
                raise
    return Files(str(name), *found)


def find_cached(name: str, *, unpickle: bool = False) -> tuple[Path, Layout] | None:
    """The folder and files of a hub model that is whole in the hub's cache; asks nobody."""
    with _explained(name):
        return _cached(*split_name(name), unpickle, whole=True)


def cached_repositories() -> list[str]:
    """The names of all models in the hub's cache, whole or not, of whatever kind."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).expanduser().glob("models--*")
    names = (folder.name.removeprefix("models--").replace("--", "/", 1) for folder in folders)
    return sorted(name for name in names if _HUB_ID.fullmatch(name))


def find_folder(name: str | os.PathLike[str]) -> Path | None:
    """The local folder that a model's name means, None for a hub id.

    Raises CheckpointError for what can be neither, and TypeError for what is no name.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a model must be a folder, a hub id or {EMBEDDED!r}, not {name!r}")
    if str(name) == EMBEDDED:
        if not (EMBEDDED_FOLDER / "config.json").is_file():
            raise CheckpointError(
                f"the embedded model is missing from this installation ({EMBEDDED_FOLDER}); "
                "install the package again, or give a folder with a CLIP-like checkpoint"
            )
        return EMBEDDED_FOLDER
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):  # unlike Path.is_dir this never raises, whatever the name
        return folder
    if os.path.exists(folder):
        raise CheckpointError(
            f"{folder} is a file; give the folder that the checkpoint's files are in"
        )
    hub_id = name if isinstance(name, str) and not name.startswith((".", "~", "/")) else ""
    if not _HUB_ID.fullmatch(hub_id):
        raise CheckpointError(f"there is no folder {folder}; {ADVICE}")
    return None


def split_name(name: str) -> tuple[str, str | None]:
    """A hub id as its repository and its revision, None where none is given."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def look_up(name: str, *, unpickle: bool = False) -> Remote:
    """Ask the hub which files of a model are needed; fetches at most its configuration files.

    There may be no weights among them (`check_weights_found`). Raises CheckpointError where the hub
    has no such model or cannot be reached.
    """
    repository, revision = split_name(name)
    with _explained(name):
        if revision is None and (pinned := _pinned(repository)):
            return pinned
        main = _list(repository, revision or "main", unpickle=False)
        if CONFIGS[main.layout.library] not in main.sizes:
            raise CheckpointError(
                f"the hub model {name!r} is no checkpoint that can be read here: it has neither "
                f"{' nor '.join(CONFIGS.values())}; {ADVICE}"
            )
        if main.layout.weights or not main.layout.pickles:
            return main
        if found := _conversion(main):
            return found
        return _list(repository, revision or "main", unpickle=unpickle)


def check_weights_found(remote: Remote, name: str) -> None:
    """Raise CheckpointError where there is nothing of a model that may be opened."""
    if remote.layout.weights:
        return
    if not remote.layout.pickles:
        raise CheckpointError(
            f"the hub model {name!r} has no weights in a layout that can be read here; {ADVICE}"
        )
    raise CheckpointError(
        f"{name!r} has only pickled weights ({remote.layout.pickles[0]}) and no conversion to "
        "safetensors by the hub; a pickle can be made to harm, so it is opened only if you "
        "say --unpickle (in Python unpickle=True), or choose another model"
    )


def download(remote: Remote, names: tuple[str, ...]) -> Path:
    """Fetch files of a checkpoint into the hub's cache, those only that are not there.

    Returns the folder that they are in. A connection that breaks is taken up where it broke; what
    an interrupted run has finished is not fetched again. What is about to be fetched is logged at
    level INFO. Raises CheckpointError.
    """
    from huggingface_hub import snapshot_download

    with _explained(remote.repository):
        cache = _repository_cache(remote.repository)
        folder = cache / "snapshots" / remote.commit
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return folder
        size = sum(remote.sizes[name] for name in missing)
        large = size > 1_000_000
        if large:
            _log.info(
                "fetching %s (%d MB) from the Hugging Face hub, once, into %s",
                remote.repository,
                round(size / 1e6),
                cache,
            )
        return Path(
            snapshot_download(
                remote.repository,
                revision=remote.revision,
                allow_patterns=[glob.escape(name) for name in names],
                tqdm_class=_Bar if large else _NoBar,
            )
        )


class _Bar(tqdm):  # type: ignore[misc]
    """A progress bar that shows only on a terminal, and only if the hub's bars may."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled

        settings.pop("name", None)  # the hub's own name for it
        settings["disable"] = settings.get("disable") or are_progress_bars_disabled() or None
        super().__init__(*args, **settings)


class _NoBar(_Bar):
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings | {"disable": True})


def _pinned(repository: str) -> Remote | None:
    """The conversion written down for a repository, None where the hub has no such commit."""
    from huggingface_hub.errors import HfHubHTTPError

    if repository not in PINNED:
        return None
    try:
        found = _list(repository, PINNED[repository], unpickle=False)
    except HfHubHTTPError:
        return None
    usable = found.layout.weights and found.commit == PINNED[repository]
    return replace(found, conversion=True) if usable else None


def _conversion(main: Remote) -> Remote | None:
    """The safetensors that the hub's converter offers for the pickles of `main`.

    Anybody may open a pull request. This one must be the converter's own, still open, and exactly
    one commit on top of the commit that it converts; that commit is taken, not the request's
    branch, which may move.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        for request in api.get_repo_discussions(
            main.repository,
            author=CONVERTER,
            discussion_type="pull_request",
            discussion_status="open",
        ):
            own = request.author == CONVERTER and request.status == "open"
            if not (own and request.is_pull_request):
                continue
            commits = api.list_repo_commits(main.repository, revision=request.git_reference)
            if len(commits) < 2 or commits[1].commit_id != main.commit:
                continue
            found = _list(main.repository, commits[0].commit_id, unpickle=False)
            if found.layout.weights:
                return replace(found, conversion=True)
    except HfHubHTTPError:  # A repository can be closed to pull requests.
        pass
    return None


def _list(repository: str, revision: str, *, unpickle: bool) -> Remote:
    """What the hub holds of a repository at a revision."""
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(
        repository, revision=revision, files_metadata=True, timeout=HUB_TIMEOUT
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    sizes = {name: size for name, size in sizes.items() if "/" not in name}
    configs: dict[Library, dict[str, Any] | None] = {}
    if all(name in sizes for name in CONFIGS.values()):  # only what it says tells the two apart
        path = hf_hub_download(repository, CONFIGS["transformers"], revision=info.sha)
        configs["transformers"] = _read_json(Path(path))
    layout = choose(sizes, configs, unpickle=unpickle)
    return Remote(repository, revision, str(info.sha), sizes, layout)


def _cached(
    repository: str, revision: str | None, unpickle: bool, *, whole: bool
) -> tuple[Path, Layout] | None:
    """A checkpoint in the hub's cache.

    whole: only if it is known that no file is missing: because the list of the repository's files
    is known, or because a whole checkpoint of transformers has no others.
    """
    cache = _repository_cache(repository)
    for commit in _cached_commits(cache, repository, revision):
        folder = cache / "snapshots" / commit
        if not folder.is_dir():
            continue
        listed = _listed(cache, repository, revision, commit)
        layout = _choose_local(folder, listed if whole and listed else _names(folder), unpickle)
        if not layout.weights or not all((folder / name).is_file() for name in layout.needed):
            continue
        if listed or not whole or (layout.whole and layout.library == "transformers"):
            return folder, layout
    return None


def _cached_commits(cache: Path, repository: str, revision: str | None) -> Iterator[str]:
    """Commits that a name may mean here, the best known one first."""
    if record := _recall(cache, revision):
        yield record["commit"]
    if revision is None and repository in PINNED:
        yield PINNED[repository]
    if revision and _COMMIT.fullmatch(revision):
        yield revision
    with suppress(OSError, ValueError):
        yield (cache / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()


def _listed(cache: Path, repository: str, revision: str | None, commit: str) -> list[str] | None:
    """The names of all files of a commit, where they are known without asking the hub."""
    record = _recall(cache, revision)
    if record and record["commit"] == commit:
        return record["files"]
    try:
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError
    except ImportError:  # before version 2 it keeps no list
        return None
    try:
        tree = get_cached_repo_tree(repository, revision=commit)
    except (CachedRepoTreeNotFoundError, OSError, ValueError):
        return None
    return [file.path for file in tree if "/" not in file.path]


def _remember(remote: Remote, revision: str | None) -> None:
    """Write down beside the cached files which commit a name means, and what files it has."""
    path = _record(_repository_cache(remote.repository), revision)
    with suppress(OutputError):  # the cache may be another user's; then the hub is asked again
        write_json(path, {"commit": remote.commit, "files": sorted(remote.sizes)})


def _recall(cache: Path, revision: str | None) -> dict[str, Any] | None:
    record = _read_json(_record(cache, revision))
    if record is None or not isinstance(record.get("commit"), str):
        return None
    files = record.get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        return None
    return record if _COMMIT.fullmatch(record["commit"]) else None


def _record(cache: Path, revision: str | None) -> Path:
    return cache / "localize" / f"{quote(revision or 'main', safe='')}.json"


def _repository_cache(repository: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE).expanduser() / folder


def _choose_local(folder: Path, names: Collection[str], unpickle: bool) -> Layout:
    configs = {library: _read_json(folder / name) for library, name in CONFIGS.items()}
    return choose(names, configs, unpickle=unpickle)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}); {ADVICE}") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None where there is none; whoever needs it will say so."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into one sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, revision = split_name(name)
    try:
        yield
    except CheckpointError:
        raise
    except GatedRepoError as error:
        raise CheckpointError(
            f"the hub model {repository!r} is gated: accept its terms on huggingface.co and log in "
            f"with 'hf auth login', or {ADVICE}"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"the hub model {repository!r} has no revision {revision!r}; give a branch, a tag or a "
            "whole commit of it, or leave the revision out"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"there is no folder and no public hub model called {repository!r}; "
            f"check the spelling, or {ADVICE}"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            raise CheckpointError(
                f"{repository!r} cannot be kept in {constants.HF_HUB_CACHE} ({error.strerror}); "
                "make room there, or name another folder in HF_HUB_CACHE"
            ) from error
        offline = constants.is_offline_mode()
        why = "HF_HUB_OFFLINE is set" if offline else first_sentence(error.__cause__ or error)
        raise HubUnreachableError(
            f"{repository!r} is no folder here and the Hugging Face hub cannot be reached ({why}); "
            "check the connection, give a local folder (--model FOLDER), or try 'localize demo', "
            "which needs neither"
        ) from error
