"""Pictures in and out: every common file becomes an RGB tensor with its alpha apart, and goes back at its own size."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lib_negtrans.errors import UserError
from lib_negtrans.files import atomic_write, is_remote, store_errors
from lib_negtrans.options import ParamError

from .sizes import resized

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
MINIMUM_SIDE = 64  # the UNet's lowest level would be empty below this
MULTIPLE = 8  # the VAE's factor
TOO_LARGE = "has too many pixels to be opened safely: make it smaller."
MAXIMUM_PIXELS = 180_000_000  # Pillow's own limit, which the program around us may have switched off


class ImageError(UserError):
    """The file cannot be used; the message is one sentence without the file's name."""


@dataclass(frozen=True)
class Picture:
    """rgb (3, H, W) float32 in [0, 1], sRGB, upright; alpha (H, W) in [0, 1] or None."""

    rgb: Tensor
    alpha: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]


def mask_stems(stem: str) -> tuple[str, str, str]:
    """What the mask beside a picture PREFIX_REST may be called: mask_REST, mask_PREFIX_REST, PREFIX_REST_mask."""
    return f"mask_{stem.partition('_')[2] or stem}", f"mask_{stem}", f"{stem}_mask"


def mask_beside(path: Path) -> Path | None:
    """The mask (PNG) that lies beside a picture, see `mask_stems`; None without one."""
    for stem in mask_stems(path.stem):
        candidate = path.with_name(f"{stem}.png")
        if candidate.is_file() and candidate != path:
            return candidate
    return None


def masks_among(stems: Iterable[str]) -> set[str]:
    """The stems that a mask of one of a folder's pictures has, whether or not there is one."""
    return {mask for stem in stems for mask in mask_stems(stem) if mask != stem}


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    mode = "RGBA" if image.mode in ("RGBA", "LA", "PA") else "RGB"
    if image.mode in ("P", "LA", "PA", "1"):
        image = image.convert(mode)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, ValueError, OSError):
        return image  # a broken or mismatched profile: the pixel values as they are, as browsers do


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def load_picture(file: Path | BinaryIO) -> Picture:
    """Read any common picture: EXIF orientation, ICC to sRGB, 16-bit, palette, CMYK, grey, alpha.

    Raises ImageError when it cannot be read or is under 64 pixels a side.
    """
    return picture_from_pil(open_upright(file))


def open_upright(file: Path | BinaryIO) -> Image.Image:
    """A whole picture of any mode as PIL has it, turned as its EXIF says. Raises ImageError, OSError of a store."""
    if is_remote(file):
        with store_errors(cast(Path, file)):
            file = io.BytesIO(cast(Path, file).read_bytes())
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > MAXIMUM_PIXELS:
                raise ImageError(TOO_LARGE)
            opened.load()
            image = ImageOps.exif_transpose(opened) or opened
            image.info.setdefault("icc_profile", opened.info.get("icc_profile"))
    except FileNotFoundError:
        raise ImageError("there is no such file.") from None
    except Image.DecompressionBombError:
        raise ImageError(TOO_LARGE) from None
    except MemoryError:
        raise ImageError("needs more memory than there is: make it smaller.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"cannot be read as a picture ({type(error).__name__}): replace or remove it.") from error
    return image


def picture_from_pil(image: Image.Image) -> Picture:
    """A PIL image of any mode as a Picture. Raises ImageError when it is under 64 pixels a side."""
    if min(image.size) < MINIMUM_SIDE:
        raise ImageError(f"is {image.width}x{image.height} pixels: at least {MINIMUM_SIDE} a side are needed.")
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        grey = np.asarray(image, dtype=np.float32)
        peak = 65535.0 if image.mode != "F" else max(float(grey.max()), 1e-6)
        rgb = torch.from_numpy(np.clip(grey / peak, 0.0, 1.0)).expand(3, -1, -1).clone()
        return Picture(rgb, None)
    image = _to_srgb(image)
    alpha = None
    if _has_alpha(image):
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255.0
        if rgba[..., 3].min() < 1.0:
            alpha = torch.from_numpy(rgba[..., 3].copy())
        values = rgba[..., :3]
    else:
        values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return Picture(torch.from_numpy(values.transpose(2, 0, 1).copy()), alpha)


def flatten_alpha(picture: Picture, background: float = 0.5) -> Tensor:
    """The picture (3, H, W) over a grey background where it is transparent."""
    if picture.alpha is None:
        return picture.rgb
    return picture.rgb * picture.alpha + background * (1.0 - picture.alpha)


def parse_size(text: str) -> tuple[int, int]:
    """`WxH` -> (width, height). Raises ParamError."""
    width, separator, height = text.lower().partition("x")
    if not separator or not width.isdigit() or not height.isdigit() or min(int(width), int(height)) < MINIMUM_SIDE:
        raise ParamError(f"size must be WIDTHxHEIGHT with at least {MINIMUM_SIDE} pixels a side, not {text!r}.")
    return int(width), int(height)


def fit_within(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, H, W) to fit in (width, height), aspect kept, antialiased."""
    scale = min(size[0] / image.shape[2], size[1] / image.shape[1])
    return resized(image, (max(1, round(image.shape[2] * scale)), max(1, round(image.shape[1] * scale))))


def pad_to_multiple(image: Tensor) -> Tensor:
    """Pad (B, C, H, W) at the right and bottom with the border's values to a multiple of 8; crop it off later."""
    height, width = image.shape[-2:]
    pad = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
    return torch.nn.functional.pad(image, pad, mode="replicate") if any(pad) else image


def to_pil(rgb: Tensor, alpha: Tensor | None = None) -> Image.Image:
    """(3, H, W) in [0, 1], and alpha (H, W), as an 8-bit PIL image."""
    values = (rgb.clamp(0, 1) * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(values)
    if alpha is not None:
        image.putalpha(Image.fromarray((alpha.clamp(0, 1) * 255.0).round().to(torch.uint8).cpu().numpy()))
    return image


def write_png(file: BinaryIO | Path, image: Image.Image, text: dict[str, str] | None = None) -> None:
    """Write a PNG with text chunks (UTF-8) into a stream or over a file."""
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value) if not value.isascii() else info.add_text(key, value)
    image.save(file, format="PNG", pnginfo=info)


def save_png(path: Path, image: Image.Image, text: dict[str, str] | None = None) -> None:
    """Write a PNG atomically with text chunks (UTF-8); folders are made."""
    with atomic_write(path) as file:
        write_png(file, image, text)
