"""A picture whose every corner differs, and its files."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from localize import images

# A picture whose four corners differ, so that any flip or turn of it shows.
CORNERS = np.zeros((24, 40, 3), np.uint8)
CORNERS[:12, :20] = (250, 20, 20)
CORNERS[:12, 20:] = (20, 250, 20)
CORNERS[12:, :20] = (20, 20, 250)
CORNERS[12:, 20:] = (240, 240, 240)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def close(pixels: np.ndarray, expected: object, within: int = 3) -> bool:
    return bool(np.abs(pixels.astype(int) - np.asarray(expected, int)).max() <= within)


def refusal(source: object, **options: int) -> str:
    """The one sentence that a picture is refused with."""
    with pytest.raises(images.ImageError) as caught:
        images.read_image(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message
