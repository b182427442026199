"""A contact sheet: pictures in labelled rows and columns on one PIL image. Pillow only; pictures in, a picture out."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (255, 255, 255), (30, 30, 30)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)  # scalable from Pillow 10.1 on
    except (TypeError, ImportError, OSError):  # older, as in the webui, or built without FreeType
        return ImageFont.load_default()


def _printable(text: str) -> str:
    """What the default font can draw: it has Latin letters only."""
    return text.encode("latin-1", "replace").decode("latin-1")


def wrap(text: str, font, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken at blanks, and inside words that are too long themselves."""
    lines: list[str] = []
    for paragraph in _printable(text).split("\n"):
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}" if line else word
            while len(line) > 1 and font.getlength(line) > width:
                fits = next((n for n in range(len(line) - 1, 1, -1) if font.getlength(line[:n]) <= width), 1)
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    return lines


def fit(image: Image.Image, cell: int, resample: str = "auto") -> Image.Image:
    """The picture as RGB with its longer side `cell`, aspect kept; transparency over white.

    resample: "nearest", "lanczos", or "auto": nearest where the factor is a whole number of at least 2, so that small
    pictures show their own pixels, else Lanczos.
    """
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*PAPER, 255)), layer)
    image = image.convert("RGB")
    longer = max(image.size)
    width, height = (max(1, round(n * cell / longer)) for n in image.size)
    if resample == "auto":
        resample = "nearest" if cell % longer == 0 and cell >= 2 * longer else "lanczos"
    return image.resize((width, height), Image.Resampling[resample.upper()])


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    columns: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    *,
    title: str = "",
    cell: int = 256,
    gap: int = 8,
    resample: str = "auto",
) -> Image.Image:
    """Rows of pictures with titles above the columns and labels left of the rows.

    rows: PIL images of any mode and size, None for an empty cell; a row may be shorter than others. columns,
    row_labels: none, or one for each column or row. cell: the longer side of every picture, in pixels. Raises
    ValueError where the counts disagree or there is nothing to show.
    """
    width = max((len(row) for row in rows), default=0)
    if not width:
        raise ValueError("a sheet needs at least one picture.")
    if columns and len(columns) != width:
        raise ValueError(f"{len(columns)} column titles for {width} columns.")
    if row_labels and len(row_labels) != len(rows):
        raise ValueError(f"{len(row_labels)} row labels for {len(rows)} rows.")
    font, heading = _font(max(11, cell // 16)), _font(max(13, cell // 12))
    line = round(_height(font) * 1.25)
    pictures = [[None if image is None else fit(image, cell, resample) for image in row] for row in rows]
    heights = [max((image.height for image in row if image is not None), default=line) for row in pictures]
    label_width = cell * 2 // 3 if row_labels else 0
    sheet_width = label_width + width * (cell + gap) + gap
    title_lines = wrap(title, heading, sheet_width - 2 * gap) if title else []
    column_lines = [wrap(text, font, cell) for text in columns]
    title_height = len(title_lines) * round(_height(heading) * 1.25) + (gap if title_lines else 0)
    column_height = max((len(lines) for lines in column_lines), default=0) * line + (gap // 2 if columns else 0)

    sheet = Image.new("RGB", (sheet_width, title_height + column_height + sum(heights) + gap * (len(rows) + 1)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, title_lines, (gap, gap), heading)
    for number, lines in enumerate(column_lines):
        # at the foot of the header, so that short titles stand next to their pictures
        top = gap + title_height + column_height - gap // 2 - len(lines) * line
        _write(draw, lines, (label_width + gap + number * (cell + gap), top), font)
    top = gap + title_height + column_height
    for number, (row, height) in enumerate(zip(pictures, heights, strict=True)):
        if row_labels:
            _write(draw, wrap(row_labels[number], font, label_width - gap), (gap, top), font)
        for column, image in enumerate(row):
            if image is not None:
                sheet.paste(image, (label_width + gap + column * (cell + gap) + (cell - image.width) // 2, top))
        top += height + gap
    return sheet


def _height(font) -> int:
    _, top, _, bottom = font.getbbox("Ag|")
    return bottom - top


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], at: tuple[int, int], font) -> None:
    step = round(_height(font) * 1.25)
    for number, text in enumerate(lines):
        draw.text((at[0], at[1] + number * step), text, fill=INK, font=font)
