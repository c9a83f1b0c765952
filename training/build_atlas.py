"""Render the glyphs of ``concepts.txt`` into the atlas that the package ships.

Knows the font and the list of concepts; knows nothing of scenes or models. Run it only to change
the vocabulary: the atlas is committed, and nobody needs the font afterwards.

    python training/build_atlas.py --font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL = 96
FONT_SIZE = 109  # the only strike of the bitmap font
COLUMNS = 25
HERE = Path(__file__).parent
GLYPHS = HERE.parent / "localize" / "evaluation" / "glyphs"


def read_concepts(path: Path) -> list[dict[str, object]]:
    """The concepts of a file of ``glyphs name: synonym, synonym`` lines; ``#`` starts a comment."""
    concepts: list[dict[str, object]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        glyphs, rest = line.split(" ", 1)
        name, synonyms = rest.split(":", 1)
        words = [word.strip() for word in synonyms.split(",") if word.strip()]
        concepts.append({"name": name.strip(), "synonyms": words, "characters": list(glyphs)})
    return concepts


def render(character: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """One glyph, cropped to its alpha and fitted into a CELL square; None if it is missing."""
    canvas = Image.new("RGBA", (176, 176))
    ImageDraw.Draw(canvas).text((16, 16), character, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        return None
    glyph = canvas.crop(box)
    scale = (CELL - 2) / max(glyph.size)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(
        glyph.resize(size, Image.Resampling.LANCZOS),
        ((CELL - size[0]) // 2, (CELL - size[1]) // 2),
    )
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", required=True)
    arguments = parser.parse_args()
    font = ImageFont.truetype(arguments.font, FONT_SIZE)
    missing = render("\U0010fffd", font)
    blank = missing.tobytes() if missing else b""
    cells: list[Image.Image] = []
    names: list[dict[str, object]] = []
    for concept in read_concepts(HERE / "concepts.txt"):
        drawn = [render(str(c), font) for c in concept.pop("characters")]  # type: ignore[attr-defined]
        kept = [cell for cell in drawn if cell is not None and cell.tobytes() != blank]
        if not kept:
            print(f"not in the font: {concept['name']}")
            continue
        names.append({**concept, "glyphs": list(range(len(cells), len(cells) + len(kept)))})
        cells.extend(kept)
    rows = -(-len(cells) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, cell in enumerate(cells):
        atlas.paste(cell, (index % COLUMNS * CELL, index // COLUMNS * CELL))
    atlas.save(GLYPHS / "atlas.webp", lossless=True, method=6)
    table = {"cell": CELL, "columns": COLUMNS, "concepts": names}
    text = json.dumps(table, ensure_ascii=False, indent=1) + "\n"
    (GLYPHS / "names.json").write_text(text, encoding="utf-8")
    print(f"{len(names)} concepts, {len(cells)} glyphs, {atlas.width} x {atlas.height}")


if __name__ == "__main__":
    main()
