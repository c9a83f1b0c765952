"""Pascal VOC's XML, a file a picture, in ``voc/``.

Corners are the first and the last pixel inside, counted from 1 (Everingham et al., "The PASCAL
Visual Object Classes Challenge 2012 Development Kit", section 3): a box of the whole picture is
from 1, 1 to its width and height.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from localize.export.answers import Answer
from localize.names import printable


def write(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, bytes]]:
    """``voc/NAME.xml`` for each picture, those without boxes too."""
    for answer in answers:
        path = PurePosixPath(answer.name)
        root = ET.Element("annotation")
        _add(root, "folder", str(path.parent) if path.parent.name else "")
        _add(root, "filename", path.name)
        if answer.path is not None:
            _add(root, "path", answer.path)
        size = ET.SubElement(root, "size")
        for name, value in (("width", answer.width), ("height", answer.height), ("depth", 3)):
            _add(size, name, str(value))
        _add(root, "segmented", "0")
        for box in answer.boxes:
            left, top, right, bottom = map(round, box.xyxy)
            thing = ET.SubElement(root, "object")
            _add(thing, "name", box.label)
            for name, text in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
                _add(thing, name, text)
            _add(thing, "score", f"{box.score:.4f}")
            corners = ET.SubElement(thing, "bndbox")
            edges = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
            for name, value in edges.items():
                _add(corners, name, str(value))
        ET.indent(root)
        yield f"voc/{answer.name}.xml", ET.tostring(root, "utf-8", xml_declaration=True) + b"\n"


def _add(parent: ET.Element, name: str, text: str) -> None:
    ET.SubElement(parent, name).text = printable(text)  # XML takes no control characters
