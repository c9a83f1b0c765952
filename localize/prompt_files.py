"""Files of prompts, as people have them -> prompts.

Knows the forms of such files and what may be wrong with them; must not know how a prompt is asked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import yaml

from localize.images import Picture, read_image
from localize.names import display_name, os_reason, printable
from localize.options import MAX_PIXELS
from localize.prompts import Prompt, as_prompt

MAX_BYTES = 4 << 20
"""A larger file is none of prompts: so many would take days to ask."""

MAX_DEPTH = 20
"""Levels of YAML; three would do."""

KEYS = ("label", "any", "like", "unlike", "negatives", "threshold")


class PromptFileError(ValueError):
    """A file of prompts cannot be read. The message is one sentence: which file, where, and why."""


def read_prompts(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> list[Prompt]:
    """The prompts of a file in UTF-8, in their order.

    A name that ends in .yaml, .yml or .json: a list, each of it a text or a mapping of `label` and,
    as in `Prompt.of`, `any`, `like`, `unlike`, `negatives` and `threshold`. `like` and `unlike` are
    paths of pictures, from the file's folder on. YAML is read without tags and aliases.
    Any other: one prompt a line; blank lines and those that begin with # do not count.
    max_pixels: larger pictures are refused.

    Raises PromptFileError.
    """
    name = display_name(path)
    ending = os.path.splitext(os.fsdecode(path))[1].lower()
    entries = {".json": _json_entries, ".yaml": _yaml_entries, ".yml": _yaml_entries}
    try:
        found: dict[str, Prompt] = {}
        picture = partial(_picture, os.path.dirname(os.fsdecode(path)), max_pixels)
        for line, entry in entries.get(ending, _lines)(_text_of(path)):
            prompt = _prompt(line, entry, picture)
            if prompt.label in found:
                raise _WrongError(f"{_quoted(prompt.label)} has been asked for before", line)
            found[prompt.label] = prompt
        if not found:
            raise _WrongError("there are no prompts in it")
    except _WrongError as error:
        where = name if error.line is None else f"{name}, line {error.line}"
        raise PromptFileError(f"cannot take prompts from {where}: {error}") from error
    except RecursionError:
        raise PromptFileError(f"cannot take prompts from {name}: it is nested too deep") from None
    return list(found.values())


class _WrongError(Exception):
    """What is wrong with a file, and the line, from 1 on, where that is known."""

    def __init__(self, why: str, line: int | None = None):
        super().__init__(why)
        self.line = line


def _text_of(path: str | os.PathLike[str]) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _WrongError(os_reason(error)) from error
    except ValueError as error:  # A name with a null character.
        raise _WrongError(str(error)) from error
    if len(data) > MAX_BYTES:
        raise _WrongError(f"it is larger than {MAX_BYTES >> 20} MB, and no file of prompts")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _WrongError(
            "it is not text in UTF-8", data.count(b"\n", 0, error.start) + 1
        ) from error
    if "\0" in text:
        raise _WrongError("it is not text", text.count("\n", 0, text.index("\0")) + 1)
    return text


# The forms: each gives the entries of a file with the lines that they begin on --------------------


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        words = line.strip()
        if words and not words.startswith("#"):
            yield number, words


def _json_entries(text: str) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder(object_pairs_hook=_mapping)
    try:
        entries = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _WrongError(
            f"it is not JSON ({error.msg[0].lower()}{error.msg[1:]})", error.lineno
        ) from error
    except ValueError as error:  # A number of thousands of digits.
        raise _WrongError(f"it is not JSON that can be read ({error})") from error
    if not isinstance(entries, list):
        raise _WrongError(f"it must hold a list of prompts, not {_kind(entries)}", 1)
    place = text.index("[") + 1
    for entry in entries:
        place = next(each.start() for each in re.compile(r"[^\s,]").finditer(text, place))
        yield text.count("\n", 0, place) + 1, entry
        _, place = decoder.raw_decode(text, place)


def _yaml_entries(text: str) -> Iterator[tuple[int, Any]]:
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            _refuse_more_than_data(event)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:  # PyYAML would take hours for a few thousand.
                raise RecursionError
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return
        if not isinstance(root, yaml.SequenceNode):
            raise _WrongError("it must hold a list of prompts, each behind a dash", _line(root))
        for node in root.value:
            yield _line(node), _built(loader, node)
    except yaml.reader.ReaderError as error:
        raise _WrongError(f"it is not YAML ({error.reason})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise _WrongError(f"it is not YAML ({printable(str(error.problem))})", line) from error


def _refuse_more_than_data(event: yaml.Event) -> None:
    """Aliases may stand for more than any memory holds, and tags for things that are no data."""
    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent):
        raise _WrongError(f"aliases such as *{event.anchor} are not read; write it out", line)
    if (tag := getattr(event, "tag", None)) is not None:
        raise _WrongError(f"tags such as {printable(tag)} are not read; leave it out", line)


def _built(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """What a node of YAML is in Python; of a mapping no key may be there twice."""
    try:
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node, deep=True)
        pairs = [[loader.construct_object(each, deep=True) for each in pair] for pair in node.value]
    except ValueError as error:  # A date that is none, a number of thousands of digits.
        raise _WrongError(f"it holds what cannot be read ({error})", _line(node)) from error
    return _mapping(pairs, _line(node))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _mapping(pairs: Iterable[Sequence[Any]], line: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise _WrongError(f"{_kind(key)} is no key; there are {', '.join(KEYS)}", line)
        if key in found:
            raise _WrongError(f"the key {_quoted(key)} is there twice", line)
        found[key] = value
    return found


# What entries mean --------------------------------------------------------------------------------


def _prompt(line: int, entry: Any, picture: Callable[[str], Picture]) -> Prompt:
    try:
        if not isinstance(entry, dict):
            return as_prompt(_text(entry, "a prompt"))
        if unknown := [key for key in entry if key not in KEYS]:
            raise ValueError(f"there is no key {_quoted(unknown[0])}, only {', '.join(KEYS)}")
        if "label" not in entry:
            raise ValueError("the prompt has no label")
        label = _text(entry["label"], "the label")
        return Prompt.of(
            label,
            any=_texts(entry.get("any", []), "any"),
            like=[picture(name) for name in _names(entry.get("like", []), "like")],
            unlike=[picture(name) for name in _names(entry.get("unlike", []), "unlike")],
            negatives=_texts(entry.get("negatives", []), "negatives"),
            threshold=entry.get("threshold"),
        )
    except (TypeError, ValueError) as error:
        raise _WrongError(str(error), line) from error


def _picture(folder: str, max_pixels: int, name: str) -> Picture:
    return read_image(os.path.join(folder, name), max_pixels=max_pixels)


def _names(values: Any, what: str) -> list[str]:
    """The paths of one picture or several."""
    return _texts([values] if isinstance(values, str) else values, what)


def _texts(values: Any, what: str) -> list[str]:
    if not isinstance(values, list):
        raise TypeError(f"{what} must be a list of texts, not {_kind(values)}")
    return [_text(value, f"each of {what}") for value in values]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        hint = "" if isinstance(value, list | dict) else "; quotes make it text"
        raise TypeError(f"{what} must be text, not {_kind(value)}{hint}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{what} holds half a character, {_quoted(value)}")
    if not value.strip():
        raise ValueError(f"{what} must not be blank")
    return value.strip()


def _kind(value: Any) -> str:
    kinds = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "nothing",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
