"""`localize app`: a page in the browser to try pictures and words on.

Knows words on the command line; must not know algorithms nor the page.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from localize.cli.listening import MAX_PIXELS, add_listening, answer, check_listening
from localize.cli.shared import (
    DONE,
    EMOJI_MODEL,
    PHOTO_MODEL,
    Commands,
    add_model,
    add_options,
    make_localizer,
    options_of,
    say,
)

if TYPE_CHECKING:
    from localize.index import Index
    from localize.localizer import Localizer

PORT = 7860

CPU_BATCH = 8
"""Crops at once on a CPU: hardly slower than more, and the page sees how far it is."""


def add(commands: Commands) -> None:
    app = commands.add_parser(
        "app",
        help="try pictures and words in a page in the browser",
        description="A page in the browser: drop a picture, type what to look for, see where it "
        "is. Needs the extra 'app'.",
    )
    add_listening(app, PORT)
    app.add_argument(
        "--also",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="further models to choose from, as in --model; those that are installed are offered "
        "anyway",
    )
    app.add_argument(
        "--store",
        metavar="PATH",
        help="what 'localize index' has made, to be searched from the page",
    )
    add_model(app, f"{PHOTO_MODEL} where it is installed, else {EMOJI_MODEL}")
    add_options(app)
    app.set_defaults(run=run, model=None, max_pixels=MAX_PIXELS)


def run(parsed: argparse.Namespace) -> int:
    options = options_of(parsed)
    check_listening(parsed)
    try:
        from localize.app import library, models, page, uploads
        from localize.serve import server
    except ImportError as error:
        raise ImportError(
            f"app needs the extra 'app' ({error}): pip install 'clip-localize[app]'"
        ) from error
    with server.listen(parsed.host, parsed.port) as bound:
        index = _opened(parsed)
        names = _names(parsed, index)

        def load(name: str) -> Localizer:
            chosen = argparse.Namespace(**{**vars(parsed), "model": name})
            return _in_small_steps(make_localizer(chosen, options))

        ready = {}
        if index is not None:
            from localize.localizer import Localizer

            name = index.store.settings.model
            ready[name] = _in_small_steps(Localizer(index.localizer.encoder, options))
        offered = models.Models(names, load, parsed.keep, ready)
        offered.put(names[0], offered.open(names[0]))
        app = page.App(
            offered,
            uploads.Uploads(parsed.keep),
            options,
            int(parsed.max_upload * 1e6),
            None if index is None else library.Library(index, options.max_pixels),
        )
        answer(
            parsed,
            bound,
            lambda hosts: page.make_app(app, token=parsed.token, hosts=hosts),
            lambda address: f"Open {address} in a browser; Ctrl-C ends it.",
        )
    if not parsed.quiet:
        say("Stopped.")
    return DONE


def _opened(parsed: argparse.Namespace) -> Index | None:
    """The store of --store with its model."""
    if parsed.store is None:
        return None
    from localize.index import Index

    return Index.open(
        parsed.store, device=parsed.device, dtype=parsed.dtype, unpickle=parsed.unpickle
    )


def _names(parsed: argparse.Namespace, index: Index | None) -> list[str]:
    """The models to choose from, the one to begin with first."""
    from localize.encoders.inspection import installed_models

    installed = installed_models(unpickle=parsed.unpickle)
    usual = [PHOTO_MODEL] if PHOTO_MODEL in installed else []
    of_store = [] if index is None else [index.store.settings.model]
    chosen = [] if parsed.model is None else [parsed.model]
    return list(dict.fromkeys([*chosen, *of_store, *usual, EMOJI_MODEL, *parsed.also, *installed]))


def _in_small_steps(localizer: Localizer) -> Localizer:
    """With batches so small that a page can tell how far a picture is."""
    device = getattr(localizer.encoder, "device", None)
    if localizer.options.batch_size is None and (device is None or device.type == "cpu"):
        return type(localizer)(localizer.encoder, replace(localizer.options, batch_size=CPU_BATCH))
    return localizer
