"""What is asked for, as it is said on the command line: words, files of prompts, pictures.

Knows the options that say it; must not know what comes of them. Imports what is heavy only once it
is asked for.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from localize.names import display_name

if TYPE_CHECKING:
    from localize.prompts import Prompt


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """The options that `check_asked` and `asked_of` read."""
    parser.add_argument(
        "-p",
        "--prompt",
        dest="prompts",
        nargs="+",
        action="extend",
        default=[],
        metavar="PROMPT",
        help="what to look for, in words; one that begins with a dash: --prompt=-word",
    )
    add_files_and_pictures(parser)


def add_files_and_pictures(parser: argparse.ArgumentParser) -> None:
    """The options for what is not said in words on the command line."""
    parser.add_argument(
        "--prompts",
        dest="prompt_files",
        action="append",
        default=[],
        metavar="FILE",
        help="a file of prompts: one a line or, in YAML or JSON, with label, any (alternatives), "
        "like and unlike (pictures), negatives and threshold of each",
    )
    parser.add_argument(
        "--like",
        action="append",
        default=[],
        metavar="PICTURE[=LABEL]",
        help="a picture of what to look for, and what to call it; with the label of a prompt, "
        "one more alternative of it",
    )
    parser.add_argument(
        "--unlike",
        action="append",
        default=[],
        metavar="PICTURE",
        help="a picture of what no --like means",
    )


def check_asked(parsed: argparse.Namespace) -> None:
    """Raise ValueError where nothing is asked for, before anything is loaded."""
    if not (parsed.prompts or parsed.prompt_files or parsed.like):
        raise ValueError(
            "nothing is asked for; name it with --prompt WORDS, --prompts FILE or --like PICTURE; "
            "see 'localize detect --help'"
        )
    if parsed.unlike and not parsed.like:
        raise ValueError("--unlike says what a picture given with --like does not mean; give one")


def asked_of(parsed: argparse.Namespace) -> list[Prompt]:
    """What words, files and pictures ask for, each label once.

    Raises ValueError where a picture or file cannot be read, or two prompts have one label.
    """
    from localize.images import read_image
    from localize.prompt_files import read_prompts
    from localize.prompts import Prompt, as_prompt

    asked: dict[str, Prompt] = {}
    in_files = [
        prompt
        for file in parsed.prompt_files
        for prompt in read_prompts(file, max_pixels=parsed.max_pixels)
    ]
    for prompt in (*map(as_prompt, parsed.prompts), *in_files):
        if asked.setdefault(prompt.label, prompt) != prompt:
            raise ValueError(
                f"two prompts are called {prompt.label!r}; each needs a label of its own"
            )
    unlike = tuple(read_image(path, max_pixels=parsed.max_pixels) for path in parsed.unlike)
    for word in parsed.like:
        path, label = _labelled(word)
        picture = read_image(path, max_pixels=parsed.max_pixels)
        like = Prompt.from_image(picture, label, unlike=unlike)
        if known := asked.get(like.label):
            against = tuple(dict.fromkeys((*known.unlike, *unlike)))
            like = replace(known, pictures=(*known.pictures, picture), unlike=against)
        asked[like.label] = like
    return list(asked.values())


def _labelled(word: str) -> tuple[str, str | None]:
    """The picture and the label, if any, of PICTURE[=LABEL]. A file of all that name goes first."""
    path, equals, label = word.rpartition("=")
    if not equals or os.path.lexists(word):
        return word, None
    if not label.strip():
        raise ValueError(f"--like {display_name(word)} has no label behind its =")
    return path, label.strip()
