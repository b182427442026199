"""Captions: a template line with [name] and [filewords], drawn anew for every picture in every step."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_negtrans.training.errors import CaptionError

WordsOf = Callable[[Path], tuple[str, bool]]  # picture -> (words, from a caption file?)
NAME, FILEWORDS = "[name]", "[filewords]"

# What a caption says is kept out of the vectors: after a description, only the rendered look is left for them to learn.
BUILT_IN: dict[str, tuple[str, ...]] = {
    "filewords": ("[filewords], [name]", "[name], [filewords]", "a picture of [filewords], [name]"),
    "name": ("[name]",),
    "style": ("a picture in the style of [name]", "a rendering, [name]", "clothing, [name] style", "[name]"),
}

AUTO = "auto"
CHOICES = (AUTO, *BUILT_IN)

# The webui's own rule (modules/textual_inversion/dataset.py, re_numbers_at_start): "012-red coat.png" says "red coat".
_NUMBERS_AT_START = re.compile(r"^[-\d]+\s*")
_EXTRA_NETWORK = re.compile(r"<\w+:[^>]*>")
_UNESCAPED = re.compile(r"(?<!\\)([()\[\]])")
_KEYWORD = re.compile(r"\b(AND|BREAK)\b")


@dataclass(frozen=True)
class Captions:
    """The lines of a template."""

    lines: tuple[str, ...]

    @property
    def uses_filewords(self) -> bool:
        """Whether any line asks for the picture's own words."""
        return any(FILEWORDS in line for line in self.lines)

    def draw(self, name: str, filewords: str, generator: torch.Generator) -> str:
        """One caption from a randomly drawn line. Consumes one number of the generator, also with a single line."""
        number = int(torch.randint(len(self.lines), (1,), generator=generator))
        return self.fill(number, name, filewords)

    def fill(self, number: int, name: str, filewords: str) -> str:
        """Line `number` with the words put in; without file words their comma goes too."""
        text = self.lines[number].replace(FILEWORDS, filewords).replace(NAME, name)
        parts = [part.strip() for part in text.split(",")]
        return ", ".join(part for part in parts if part)


def load_captions(template: str | Path, captioned: bool = False) -> Captions:
    """A built-in template by its name, or a UTF-8 text file with one template a line.

    "auto" is "filewords" where pictures have a .txt (`captioned`), else "name": file names such as 0123_final.png
    describe nothing. Every line needs [name]: without it a step would train nothing. Raises CaptionError.
    """
    if str(template) == AUTO:
        template = "filewords" if captioned else "name"
    if str(template) in BUILT_IN:
        return Captions(BUILT_IN[str(template)])
    path = Path(template)
    if not path.is_file():
        raise CaptionError(
            f"There is no caption template {str(template)!r}: give a text file, or {', '.join(CHOICES)}."
        )
    lines = tuple(line.strip() for line in _read_text(path).splitlines() if line.strip())
    if not lines:
        raise CaptionError(f"The caption template {path} is empty: write lines such as '{BUILT_IN['filewords'][0]}'.")
    for line in lines:
        if NAME not in line:
            raise CaptionError(f"The line {line!r} of {path} lacks {NAME}: a step with it would train nothing.")
    return Captions(lines)


def vary_tags(words: str, generator: torch.Generator, shuffle: bool, dropout: float, keep: int) -> str:
    """Words separated by commas, drawn anew: in another order, each left out with a probability; the first `keep` stay.

    Consumes numbers of the generator only for what is switched on.
    """
    if not shuffle and dropout <= 0:
        return words
    tags = [tag.strip() for tag in words.split(",") if tag.strip()]
    fixed, loose = tags[:keep], tags[keep:]
    if dropout > 0:
        drawn = torch.rand(len(loose), generator=generator).tolist()
        loose = [tag for tag, number in zip(loose, drawn, strict=True) if number >= dropout]
    if shuffle:
        loose = [loose[i] for i in torch.randperm(len(loose), generator=generator).tolist()]
    return ", ".join(fixed + loose)


def named_template(template: str, folder: Path | None) -> str:
    """The path of a template in the host's folder that is given by name, such as "style_filewords"; else as it is."""
    if folder is None or template in CHOICES or not template or Path(template).name != template:
        return template
    for name in (template, f"{template}.txt"):
        if (folder / name).is_file():
            return str(folder / name)
    return template


def filewords(image: Path) -> tuple[str, bool]:
    """(words, from a caption file?) of a picture: the .txt beside it, or the file name less leading digits and dashes.

    Words are plain text: brackets are escaped and AND, BREAK, `<lora:..>` lose their meaning, or a file called
    "coat (1).png" would be a weight and a tag list with "[a|b]" would end the training. Raises CaptionError.
    """
    sidecar = image.with_suffix(".txt")
    from_file = sidecar.is_file()
    text = _read_text(sidecar) if from_file else _NUMBERS_AT_START.sub("", image.stem).replace("\\", " ")
    text = _EXTRA_NETWORK.sub("", text).replace(FILEWORDS, "").replace(NAME, "")
    text = _KEYWORD.sub(lambda found: found[0].lower(), _UNESCAPED.sub(r"\\\1", text))
    return " ".join(text.split()).strip(" ,"), from_file


@dataclass(frozen=True)
class PhotoWords:
    """Whole captions for photographs: the .txt, else the sub-folder through a template, else the instance prompt.

    folder: the one that sub-folders are counted from. An instance prompt with [filewords] is every picture's caption.
    """

    folder: Path
    instance_prompt: str
    folder_prompt: str = ""

    def __call__(self, image: Path) -> tuple[str, bool]:
        """(words, from a caption file?), as `filewords`. Raises CaptionError."""
        words, from_file = filewords(image)
        if FILEWORDS in self.instance_prompt:
            return Captions((self.instance_prompt,)).fill(0, "", words), from_file
        if from_file:
            return words, True
        inside = image.parent != self.folder and self.folder_prompt
        name = _NUMBERS_AT_START.sub("", image.parent.name.replace("_", " ")) if inside else ""
        return (self.folder_prompt.replace("{folder}", name) if name else self.instance_prompt), False


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise CaptionError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        raise CaptionError(f"{path} cannot be read: {error.strerror}.") from error
