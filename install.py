"""Run by the webui before it starts: says what is too old. Installs nothing, everything needed comes with the webui."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

MINIMUM = {"torch": (2, 0), "gradio": (3, 41), "safetensors": (0, 3), "numpy": (1, 23), "Pillow": (9, 4)}


def parse(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.1.2+cu121" -> (2, 1, 2)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits or digits != part:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def problems(python: tuple[int, ...], installed: dict[str, str | None]) -> list[str]:
    """One sentence for each thing that will not do. installed: package -> version, or None for a missing one."""
    found = []
    if python < (3, 10):
        found.append(f"Python {python[0]}.{python[1]} is too old: the webui needs 3.10 itself.")
    for package, minimum in MINIMUM.items():
        wanted = ".".join(map(str, minimum))
        present = installed.get(package)
        if present is None:
            found.append(f"{package} is missing: the webui brings it, so start the webui once without this extension.")
        elif parse(present) < minimum:
            found.append(f"{package} {present} is too old, {wanted} or newer is needed: update the webui.")
    return found


def installed_versions() -> dict[str, str | None]:
    """What is installed of the packages needed."""
    versions: dict[str, str | None] = {}
    for package in MINIMUM:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


if __name__ == "__main__":
    for problem in problems(sys.version_info[:2], installed_versions()):
        print(f"sd-webui-negtrans: {problem}")
