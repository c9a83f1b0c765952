"""`localize search`: ask a store which pictures show it, and where.

Knows words on the command line; must not know how a store is searched.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from localize.cli.asking import add_files_and_pictures, asked_of
from localize.cli.shared import (
    DONE,
    EXPORTS,
    Commands,
    add_unpickle,
    check_folder,
    hide_downloads,
    say,
)
from localize.names import display_name, printable
from localize.options import Options

if TYPE_CHECKING:
    from localize.export import Answer
    from localize.index import Hit, Index
    from localize.prompts import Prompt
    from localize.report import Sketch
    from localize.result import Localization

TOP, MIN_PRESENCE = 20, 0.7
"""As in `index.search`, which is not imported for `--help`."""


def add(commands: Commands) -> None:
    search = commands.add_parser(
        "search",
        help="ask a store which pictures show it, and where; or be told 'none'",
        description="The pictures of a store that show all that is asked for, surest first, and "
        "where. Needs the extra 'index'.",
    )
    search.add_argument("store", metavar="PATH", help="what 'localize index' has made")
    search.add_argument(
        "prompts", nargs="*", metavar="TEXT", help="what to look for; of several all must be there"
    )
    add_files_and_pictures(search)
    search.add_argument(
        "--not",
        dest="negatives",
        nargs="+",
        action="extend",
        default=[],
        metavar="TEXT",
        help="what is not meant: words to score against, besides the built-in ones",
    )
    search.add_argument(
        "--top", type=int, default=TOP, metavar="K", help="pictures at most; default: %(default)s"
    )
    search.add_argument(
        "--min-presence",
        type=float,
        default=MIN_PRESENCE,
        metavar="P",
        help="how sure it must be, in [0, 1]; default: %(default)s",
    )
    search.add_argument("--folder", metavar="DIR", help="only pictures below this folder")
    search.add_argument(
        "--after", type=_time, metavar="DATE", help="only pictures taken on this day or later"
    )
    search.add_argument(
        "--before", type=_time, metavar="DATE", help="only pictures taken before this day"
    )
    search.add_argument(
        "--fast", action="store_true", help="windows for boxes, without a second look at pictures"
    )
    search.add_argument(
        "--max-pixels",
        type=int,
        default=Options().max_pixels,
        metavar="N",
        help="refuse larger pictures for --like; default: %(default)s",
    )
    search.add_argument("--json", metavar="FILE", help="also write the hits as JSON")
    search.add_argument(
        "--report", metavar="FILE", help="also write a page to look through the hits with"
    )
    search.add_argument("--open", action="store_true", help="open that page in the browser")
    search.add_argument(
        "--export",
        nargs="+",
        choices=EXPORTS,
        default=[],
        metavar="FORMAT",
        help=f"also write the hits for other tools, into DIR/exports: {', '.join(EXPORTS)}",
    )
    search.add_argument(
        "-o",
        "--output",
        default="localize-out",
        metavar="DIR",
        help="for --export; default: %(default)s",
    )
    search.add_argument("--model", metavar="NAME", help="where the store's model is, if it moved")
    add_unpickle(search)
    search.add_argument("--device", default="auto", help="auto, cpu, cuda, mps; default: auto")
    search.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    search.add_argument("--quiet", action="store_true", help="print errors only")
    search.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    if not (parsed.prompts or parsed.prompt_files or parsed.like):
        raise ValueError(
            'nothing is asked for; say it in words, as in localize search PATH "a red kite", or '
            "with --prompts FILE or --like PICTURE"
        )
    if parsed.open and parsed.report is None:
        raise ValueError("--open shows the page that --report FILE writes; name that file")
    check_folder(parsed.output)
    from localize import files
    from localize.index import Index

    asked = asked_of(parsed)
    hide_downloads(parsed.quiet)
    for target in (parsed.json, parsed.report):
        if target is not None:
            files.check_target(target)
    index = Index.open(
        parsed.store,
        model=parsed.model,
        device=parsed.device,
        dtype=parsed.dtype,
        unpickle=parsed.unpickle,
    )
    sketches: dict[str, Sketch] = {}
    if parsed.report is not None:
        index.on_look = _keeping(sketches)
    hits = index.search(
        asked,
        top=parsed.top,
        negatives=parsed.negatives,
        min_presence=parsed.min_presence,
        folder=parsed.folder,
        after=parsed.after,
        before=parsed.before,
        fast=parsed.fast,
    )
    if parsed.json is not None:
        answer = {"prompts": [prompt.label for prompt in asked], "pictures": len(index)}
        files.write_json(parsed.json, {**answer, "hits": [hit.to_dict() for hit in hits]})
    answers = list(_answers(hits, [prompt.label for prompt in asked], index.localizer.model))
    for name in parsed.export:
        from localize.export import save_answers

        save_answers(answers, name, Path(parsed.output) / "exports")
    if parsed.report is not None:
        _write_report(parsed.report, answers, sketches, [each.label for each in asked], index)
    if not parsed.quiet:
        say("\n".join(map(_line, hits)) or _none(asked, parsed, len(index)))
    if parsed.open:
        import webbrowser

        webbrowser.open(Path(parsed.report).resolve().as_uri())
    return DONE


def _keeping(sketches: dict[str, Sketch]) -> Callable[[Localization], None]:
    """What keeps, of each picture that is looked at again, what a page shows of it."""
    from localize.report import sketch

    def keep(result: Localization) -> None:
        sketches[str(result.source)] = sketch(result)

    return keep


def _answers(hits: Sequence[Hit], labels: Sequence[str], model: str) -> Iterator[Answer]:
    """The hits as exports and pages read answers, named by their places below a common folder."""
    from localize.export import Answer

    common = os.path.commonpath([os.path.dirname(hit.file) for hit in hits]) if hits else ""
    for hit in hits:
        plain = hit.to_dict()
        facts = {
            "image": {"path": hit.file, "width": hit.width, "height": hit.height},
            "model": model,
            "prompts": labels,
            "presence": plain["presences"],
            "boxes": plain["boxes"],
        }
        yield Answer.from_facts(facts, Path(os.path.relpath(hit.file, common)).as_posix())


def _write_report(
    target: str,
    answers: Sequence[Answer],
    sketches: Mapping[str, Sketch],
    labels: Sequence[str],
    index: Index,
) -> None:
    """Write the page. A hit that was not looked at again is read for it."""
    from localize.export import totals
    from localize.files import write_bytes
    from localize.images import ImageError, read_image
    from localize.report import Card, page, thumbnail

    failed: list[str] = []
    cards: list[Card] = []
    for answer in answers:
        shown = sketches.get(str(answer.path))
        try:
            if shown is None:
                pixels = read_image(str(answer.path), max_pixels=index.localizer.options.max_pixels)
                shown = {"thumbnail": thumbnail(pixels.pixels), "maps": {}}
        except ImageError as error:
            failed.append(str(error))
        else:
            cards.append(Card(answer, shown))
    _, found = totals(answers, labels)
    write_bytes(
        target,
        page(
            cards,
            folder=os.path.dirname(os.path.abspath(target)),
            found=found,
            images=len(index),
            failed=failed,
            surest_first=True,
        ),
    )


def _line(hit: Hit) -> str:
    """One hit: how sure, which picture, and the best place of each prompt."""
    labels = dict.fromkeys(box.label for box in hit.boxes)
    places = []
    for label in labels:
        best = next(box for box in hit.boxes if box.label == label)
        corners = ", ".join(str(round(edge)) for edge in best.xyxy)
        places.append(f"{printable(label)} ({corners})")
    return f"{hit.presence:.2f}  {display_name(hit.file)}  {'; '.join(places)}"


def _none(asked: Sequence[Prompt], parsed: argparse.Namespace, pictures: int) -> str:
    what = " and ".join(printable(prompt.label) for prompt in asked)
    which = ", with these filters" if parsed.folder or parsed.after or parsed.before else ""
    return f"{what}: none of {pictures:,} picture{'s' * (pictures != 1)}{which}"


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date; write it as 2024-12-31, or with a time as 2024-12-31T18:00"
        ) from None
