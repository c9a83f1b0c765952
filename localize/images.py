"""Any picture that a user has -> upright pixels.

Knows image files, arrays and pixels; must not know models or outputs.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import stat
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, _imaging

from localize.names import display_name, os_reason, printable
from localize.options import MAX_PIXELS

if sys.platform != "win32":
    pass

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = npt.NDArray[np.uint8]

READERS = min(8, os.cpu_count() or 1)
"""Threads that `read_ahead` reads with; twice as many pictures wait at most."""

GROUND = (128, 128, 128)
"""What shows through transparent pixels: neither a dark nor a light thing vanishes before it."""


class ImageError(ValueError):
    """A picture cannot be read. The message is one sentence that names it and says why."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture.

    pixels: uint8 (H, W, 3), RGB, C-contiguous, as a viewer shows it.
    file: the name of its file without folders, if it came from one.
    notes: what the user should know, such as "first of 12 frames"; mostly empty.
    """

    pixels: Pixels
    file: str | None = None
    notes: tuple[str, ...] = ()


Some = TypeVar("Some")
ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | torch.Tensor | Picture"
)


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read one picture, upright and in sRGB, whatever it is stored as.

    source: one of
        a path, or the bytes of an image file. EXIF orientation and colour profile are applied,
            transparency is put on mid-grey, of several frames or pages the first is taken;
        a PIL image, treated likewise;
        an array or a torch tensor on any device, in RGB order: (H, W), (H, W, 1), (H, W, 3),
            (H, W, 4) or, where that is plain, channels first. uint8, uint16 (all of its range),
            bool, or floating point in [0, 1]; other numbers if all are whole and in [0, 255].
            Where both orders fit, arrays are read channels last and tensors channels first.
    max_pixels: larger pictures are refused from their header, before memory is taken for them.

    Raises ImageError, a ValueError, for what cannot be read (whatever the decoder raised) and for
    arrays whose meaning is not plain, and TypeError for other things.
    Threads may call it at the same time.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        with (
            _named(display_name(path)),
            _PILLOW_LIMIT.of(max_pixels),
            _opened(path) as file,
        ):
            pixels, notes = _decode(file, max_pixels)
        return Picture(pixels, os.path.basename(path), notes)
    if isinstance(source, bytes | bytearray | memoryview):
        with _named("the picture given as bytes"), _PILLOW_LIMIT.of(max_pixels):
            pixels, notes = _decode(BytesIO(source), max_pixels)
        return Picture(pixels, notes=notes)
    if isinstance(source, Image.Image):
        with _named("the PIL image"), _PILLOW_LIMIT.of(max_pixels):
            pixels, notes = _upright(source, max_pixels)
        return Picture(pixels, notes=notes)
    return Picture(_from_array(source))


def read_ahead(
    sources: Iterable[ImageSource], max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[ImageSource, Picture | ImageError | TypeError]]:
    """`read_image` for many, in their order, a few of them read in threads before they are wanted.

    Gives each source with its picture, or with the error where it cannot be read. An error of
    `sources` itself is raised once what they gave before has been given.
    """

    def read(source: ImageSource) -> tuple[ImageSource, Picture | ImageError | TypeError]:
        try:
            return source, read_image(source, max_pixels=max_pixels)
        except (ImageError, TypeError) as error:
            return source, error

    stopped: list[Exception] = []
    remaining = until_error(sources, stopped)
    with ThreadPoolExecutor(READERS) as pool:
        pending = deque(pool.submit(read, each) for each in islice(remaining, 2 * READERS))
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(read, each) for each in islice(remaining, 1))
        finally:  # Nobody waits for what was not asked for after all.
            for future in pending:
                future.cancel()
    if stopped:
        raise stopped.pop()


def until_error(items: Iterable[Some], stopped: list[Exception]) -> Iterator[Some]:
    """The items up to the first error, which goes into `stopped`: those before it are good."""
    try:
        yield from items
    except Exception as error:
        stopped.append(error)


@dataclass(frozen=True)
class Origin:
    """When and with what a photo was taken, where its file says so.

    taken: by the camera's own clock, which knows no time zone. camera: maker and model.
    """

    taken: datetime | None = None
    camera: str | None = None


def read_origin(path: str | os.PathLike[str]) -> Origin:
    """When and with what a photo was taken, from its EXIF; what is not said or damaged is None.

    Raises ImageError where the file is no picture.
    """
    name = os.fsdecode(path)
    with _named(display_name(name)), _opened(name) as file:
        image = _identified(file)
        try:
            exif = image.getexif()
            details = exif.get_ifd(_EXIF_DETAILS)
        except Exception:  # Damaged metadata make Pillow raise anything; the picture may be good.
            return Origin()
    said = details.get(_TAKEN) or details.get(_DIGITIZED)
    maker, model = (_exif_text(exif.get(tag)) for tag in (_MAKER, _MODEL))
    repeated = maker and model and model.lower().startswith(maker.lower())
    camera = " ".join(filter(None, (None if repeated else maker, model)))
    return Origin(_exif_time(_exif_text(said)), camera or None)


def _exif_text(value: object) -> str | None:
    return printable(value.split("\0")[0]).strip() or None if isinstance(value, str) else None


def _exif_time(text: str | None) -> datetime | None:
    try:
        return datetime.strptime(text or "", "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None


# Image files ------------------------------------------------------------------------------------

_FORMATS = tuple(
    """JPEG PNG WEBP AVIF GIF TIFF BMP DIB JPEG2000 PPM ICO CUR ICNS QOI PSD DDS SGI PCX DCX SUN
    XBM XPM MSP FLI BLP FTEX GBR PIXAR TGA SPIDER""".split()
)
"""Formats that Pillow decodes by itself, those with the weakest signatures last. Left out are those
that start a program (EPS, WMF), that bring no decoder (HDF5, GRIB, BUFR, MPEG), whose decoders take
memory before they know the size (FITS), and that nearly any file could be (IM, IMT, MCIDAS...)."""

_FOREIGN = {
    b"%PDF": "a PDF",
    b"%!PS": "a PostScript file",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file, perhaps an SVG drawing",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"SIMPLE  =": "a FITS file",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x1aE\xdf\xa3": "a video",
    b"RIFF": "a sound or a video",
    b"\0\0\0\0ftyp": "a video, or a picture of a newer kind",
}
"""How files begin that are whole, but of kinds that are not read here; of those of eight bytes the
first four are a length and may be any."""

_EXIF_DETAILS, _TAKEN, _DIGITIZED = 0x8769, 0x9003, 0x9004
_MAKER, _MODEL = 0x010F, 0x0110
"""Tags of Exif 2.32: the directory of details with two times in it, and the camera's names."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
_PAGED = {"TIFF", "DCX"}
_STILL = {"MPO", "PSD"}
"""Further frames of these are no frames to a viewer: gain maps, depth maps and layers."""

# Pillow and libtiff print of damaged files what is raised anyway. Where libtiff is out of reach
# (Windows), it goes on so.
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(OSError, AttributeError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

Image.init()
SUFFIXES = frozenset(
    suffix for suffix, name in Image.EXTENSION.items() if name in {*_FORMATS, "MPO"}
) | frozenset(_HEIF_SUFFIXES)
"""Endings of file names, in lower case, that are taken as pictures when a folder is searched."""


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn anything that a decoder may raise into one sentence about `what`."""
    try:
        with _QUIET:
            yield
    # Damaged files make Pillow raise anything, from struct.error to ZeroDivisionError.
    except Exception as error:
        raise ImageError(f"cannot read {what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, Image.DecompressionBombError):
        return "its pixels are more than the limit; raise max_pixels to read it anyway"
    if isinstance(error, OSError) and error.errno is not None:
        return os_reason(error)
    detail = printable(str(error)) or type(error).__name__
    return f"the file is damaged or cut short ({detail})"


class _Quiet:
    """Silences Pillow's remarks on odd files while any thread reads one.

    `warnings.catch_warnings` alone is not for threads: whoever leaves last would bring back what
    others had set. So the first to enter sets the filter and the last to leave takes it away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._filters: warnings.catch_warnings[None] = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()


class _PillowLimit:
    """Lets Pillow itself refuse more pixels than a reader does, and no fewer.

    Some of its decoders have pictures within pictures (icons, TIFF strips), which `read_image`
    does not see before their memory is taken, and which Pillow holds against a limit that is one
    for the whole process. While threads read, that is the largest of their limits; afterwards it is
    what it was.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._before: int | None = None

    @contextmanager
    def of(self, max_pixels: int) -> Iterator[None]:
        with self._lock:
            if not self._limits:
                self._before = Image.MAX_IMAGE_PIXELS
            self._limits.append(max_pixels)
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._limits.remove(max_pixels)
                self._set()

    def _set(self) -> None:
        # Pillow raises an error at twice its limit.
        Image.MAX_IMAGE_PIXELS = max(self._limits) // 2 if self._limits else self._before


_PILLOW_LIMIT = _PillowLimit()


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if "\0" in path:
        raise ImageError("its name has a null character")
    # Asked first: opening a pipe would wait for ever, and reading a device never end.
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("it is not a plain file")
    if status.st_size == 0:  # So are the files of /proc, some of which wait when they are read.
        raise ImageError("the file is empty")
    with open(path, "rb") as file:
        yield file


def _decode(file: IO[bytes], max_pixels: int) -> tuple[Pixels, tuple[str, ...]]:
    """The upright pixels of an image file, and notes."""
    image = _identified(file)
    pixels, notes = _upright(image, max_pixels)
    return pixels, notes + _frames_note(image)


def _identified(file: IO[bytes]) -> Image.Image:
    """The image with its header read and its pixels not yet.

    In place of Image.open, whose limit on pixels is one for the whole process, and which would hand
    the file to any decoder.
    """
    prefix = file.read(16)
    if not prefix:
        raise ImageError("the file is empty")
    damaged = None
    for name in (*_heif(prefix), *_FORMATS):
        # A Pillow built without a library may lack the format.
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or (accepts and accepts(prefix) is not True):
            continue
        file.seek(0)
        try:
            # No name goes with it: Pillow would map the file into memory, and a file that
            # somebody shortens meanwhile would end the process.
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError):
            damaged = damaged or (name if accepts else None)
    if damaged:
        raise ImageError(f"its {damaged} header is damaged or cut short")
    for start, kind in _FOREIGN.items():
        if prefix.startswith(start) or (len(start) == 8 and prefix[4:].startswith(start[4:])):
            raise ImageError(f"it is {kind}, which is not read here")
    raise ImageError("it is not a picture, or damaged from its first bytes on")


def _heif(prefix: bytes) -> tuple[str, ...]:
    """("HEIF",) for a file that says so, once its decoder is there."""
    if prefix[4:8] != b"ftyp" or prefix[8:12] not in _HEIF_BRANDS:
        return ()
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(
            "HEIC pictures need the extra 'heif': pip install 'clip-localize[heif]'"
        ) from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _frames_note(image: Image.Image) -> tuple[str, ...]:
    """Say so when the file holds more than its first frame or page."""
    if image.format in _STILL:
        return ()
    what = "page" if image.format in _PAGED else "frame"
    try:
        count = getattr(image, "n_frames", 1)
    except Exception:  # The first frame is good; what follows may be damaged in any way.
        return (f"the first {what}; those after it are damaged",)
    return (f"first of {count} {what}s",) if count > 1 else ()


# Pixels -----------------------------------------------------------------------------------------

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (Exif 2.32, tag 0x0112)."""


def _upright(image: Image.Image, max_pixels: int) -> tuple[Pixels, tuple[str, ...]]:
    """The pixels as a viewer shows them, and notes."""
    _check_size(*image.size, max_pixels)
    image.load()
    _check_size(*image.size, max_pixels)  # An icon may hold a larger picture than it says.
    rgb, notes = _rgb(image)
    transposition = _TRANSPOSITIONS.get(_orientation(image))
    if transposition is not None:
        rgb = rgb.transpose(transposition)
    return _pixels(rgb), notes


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if not (width and height):
        raise ImageError("it has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"its {width} x {height} pixels are more than the limit of {max_pixels:,}; "
            "raise max_pixels to read it"
        )


def _pixels(rgb: Image.Image) -> Pixels:
    """The pixels of an RGB image. Band by band: in one go Pillow takes the memory thrice."""
    pixels = np.empty((rgb.height, rgb.width, 3), np.uint8)
    rows = max(1, 2**20 // rgb.width)
    for top in range(0, rgb.height, rows):
        band = rgb.crop((0, top, rgb.width, min(top + rows, rgb.height)))
        pixels[top : top + rows] = np.asarray(band)
    return pixels


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # Damaged EXIF data, in any way; a viewer shows the picture as it is stored.
        return 1


def _rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in sRGB, on a grey ground where it is transparent, and notes."""
    profile = image.info.get("icc_profile")
    notes: tuple[str, ...] = ()
    if image.mode.startswith(("I", "F")):
        values, notes = _narrowed(image)
        image, profile = Image.fromarray(values), None
    if image.mode == "P" and image.palette is None:  # As Pillow reads palettes in ICNS files.
        image = image.convert("RGBA")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("L", "RGB", "CMYK"):
        profile = None if image.mode == "LAB" else profile
        image = image.convert("RGB")
    if profile:
        image, notes = _in_srgb(image, profile)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None:
        ground = Image.new("RGB", image.size, GROUND)
        ground.paste(image, mask=alpha)
        image = ground
    return image, notes


def _narrowed(image: Image.Image) -> tuple[Pixels, tuple[str, ...]]:
    """Grey values of 16 or 32 bits or floating point, as uint8 (H, W), and notes.

    16 bits are divided by 257. Other values are taken as they are in [0, 255], times 255 when
    fractions in [0, 1], as 16 bits when whole and up to 65535, else stretched from the least to
    the greatest. NaN is the least.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.format in ("PNG", "PPM") and image.mode == "I"):
        return _from_16_bits(values), ()
    finite = values[np.isfinite(values)]
    if finite.size < values.size:
        low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and image.mode == "I" and 255 < high <= 65535:
        return _from_16_bits(values), ()
    notes: tuple[str, ...] = ()
    if low >= 0 and high <= 255:
        low, high = 0, 1 if image.mode == "F" and high <= 1 else 255
    else:
        notes = (f"grey values stretched from {low:g} to {high:g}",)
    grey = values.astype(np.float64)
    grey -= low
    grey *= 255 / (high - low or 1)
    return np.rint(grey, out=grey).astype(np.uint8), notes


def _from_16_bits(values: npt.NDArray[Any]) -> Pixels:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _in_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Apply a colour profile; one that is damaged or for other channels is left out, and noted."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if image.mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return image, ()
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        return converted or image, ()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image, ("its colour profile does not fit or is damaged, and was left out",)


# Arrays -----------------------------------------------------------------------------------------

ROUNDING = 1e-3
"""Floating-point pixels this little outside [0, 1] are inside but for rounding, or for the ringing
of a resize."""

_CHANNELS = (1, 3, 4)
_SHAPES = "(H, W), (H, W, 1), (H, W, 3), (H, W, 4) or (3, H, W)"


def _from_array(source: Any) -> Pixels:
    """A new uint8 (H, W, 3) from an array or tensor."""
    is_tensor = hasattr(source, "detach") and hasattr(source, "cpu")
    if is_tensor:
        source = _tensor_as_array(source)
    if not isinstance(source, np.ndarray):
        raise TypeError(
            "an image must be a path, bytes, a PIL image, a NumPy array or a torch tensor, "
            f"not {type(source).__name__}"
        )
    pixels = _as_uint8(_channels_last(np.asarray(source), prefer_first=is_tensor))
    if pixels.shape[2] == 4:
        return _pixels(_rgb(Image.fromarray(pixels))[0])
    return np.require(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), requirements=["C", "W"])


def _tensor_as_array(tensor: Any) -> npt.NDArray[Any]:
    try:
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        # NumPy has no bfloat16.
        array: npt.NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return array
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TypeError(
            "the tensor of an image must be dense and hold numbers, which "
            f"{tensor.dtype} in layout {tensor.layout} on {tensor.device} does not"
        ) from error


def _channels_last(array: npt.NDArray[Any], prefer_first: bool) -> npt.NDArray[Any]:
    """(H, W, C) from the shapes that have one plain meaning."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 4:
        raise ImageError(f"one image at a time: its array must be {_SHAPES}, not {array.shape}")
    if array.ndim != 3 or 0 in array.shape:
        raise ImageError(f"the array of an image must be {_SHAPES}, not {array.shape}")
    first, last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
    if not first and not last:
        raise ImageError(f"the array of an image must be {_SHAPES}, not {array.shape}")
    return array.transpose(1, 2, 0) if first and (prefer_first or not last) else array


def _as_uint8(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """As uint8, values whose range is plain."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return _from_16_bits(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"pixels must be uint8, uint16, bool or floating point in [0, 1], not {array.dtype}"
        )
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("pixels must be finite; some are NaN or infinite")
    if array.dtype.kind == "f" and low >= -ROUNDING and high <= 1 + ROUNDING:
        return (array.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    if low >= 0 and high <= 255 and np.array_equal(array, np.floor(array)):
        return array.astype(np.uint8)
    raise ImageError(
        f"pixels must be uint8 in [0, 255], uint16, or floating point in [0, 1]; "
        f"these are {array.dtype} from {low:g} to {high:g}"
    )
