"""The rooms of docs/architecture.md and what they stand on are those of the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "localize"


def rooms() -> dict[str, set[str]]:
    """Each room of the table, and the rooms that its last column names."""
    rows = re.findall(
        r"^\| `(\w+)` \|.*\|([^|]*)\|$", (ROOT / "docs/architecture.md").read_text(), re.M
    )
    return {room: set(re.findall(r"`(\w+)`", stands_on)) for room, stands_on in rows}


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports from, at its top or where it needs them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "localize":
            yield from (alias.name for alias in node.names if not alias.name.startswith("__"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("localize."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (name[1] for name in names if name[0] == "localize" and len(name) > 1)


def imports() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):  # they only pass names on
            found.setdefault(room, set()).update(set(imported(path)) - {room})
    return found


def test_the_table_names_every_room_and_what_it_stands_on() -> None:
    assert rooms() == imports()


def test_no_room_stands_on_one_that_stands_on_it() -> None:
    below = imports()
    done: set[str] = set()
    while ready := {room for room in below.keys() - done if below[room] <= done}:
        done |= ready
    assert done == below.keys()


def test_every_file_that_the_page_names_is_there() -> None:
    page = ROOT / "docs" / "architecture.md"
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert len(links) > 5
    assert [link for link in links if not (page.parent / link).exists()] == []
