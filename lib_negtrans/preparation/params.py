"""What `prepare` can be asked for: one model for command line, tab and API."""

from __future__ import annotations

from dataclasses import dataclass

from lib_negtrans.options import ParamError, Params, option

FITS = ("crop", "subject", "pad", "aspect")
CAPTIONS = ("folders", "files", "none")


@dataclass
class PrepareParams(Params):
    """One preparation."""

    size: int = option(
        512, "Picture size", "Side of the prepared pictures in pixels, a multiple of 8.",
        minimum=64, maximum=4096, step=8,
    )  # fmt: skip
    fit: str = option(
        "crop", "Fit",
        "crop: the largest square around the subject, padded only if the subject would be cut. subject: a square "
        "close around the subject. pad: the whole picture, padded to a square. aspect: the whole picture in its own "
        "shape.",
        choices=FITS,
    )  # fmt: skip
    total: int = option(
        0, "How many", "How many pictures to take, at random, from all that can be used. 0 takes all.",
        minimum=0, maximum=10_000_000, step=1,
    )  # fmt: skip
    balance: bool = option(
        False, "Balance sub-folders",
        "Takes the same number of pictures from every sub-folder, at every level. If all are taken, it is the number "
        "that the smallest has.",
    )  # fmt: skip
    minimum: int = option(
        0, "Smallest side",
        "Pictures with a shorter side are left out. 0 leaves out those that would have to be enlarged.",
        minimum=0, maximum=4096, step=8,
    )  # fmt: skip
    duplicates: int = option(
        10, "Near-duplicates",
        "Two pictures count as the same if at most this many of their 256 comparison marks differ. -1 keeps all.",
        minimum=-1, maximum=128, step=1,
    )  # fmt: skip
    captions: str = option(
        "folders", "Captions",
        "folders: from the picture's .txt file, otherwise from the names of its sub-folders. files: from the .txt "
        "file only. none: no captions.",
        choices=CAPTIONS,
    )  # fmt: skip
    seed: int = option(0, "Seed of the choice", "Another number chooses other pictures.", minimum=0, maximum=2**63 - 1)

    def validate(self) -> PrepareParams:
        super().validate()
        if self.size % 8:
            raise ParamError(f"Picture size must be a multiple of 8, not {self.size}.")
        return self

    @property
    def smallest(self) -> int:
        """The shortest side that is taken."""
        return self.minimum or self.size
