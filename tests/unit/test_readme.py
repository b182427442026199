"""README and docs: what they link to exists, and the messages that README quotes are the extension's own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if not t.startswith("https://") and not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_quoted_messages_are_those_of_the_extension(page):
    said = " ".join(
        node.value
        for path in (ROOT / "lib_negtrans").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    quoted = re.findall(r'^\| "(.+?)"', page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) == 5
    # numbers and .. stand for what differs from time to time
    parts = [part.strip(" .") for text in quoted for part in re.split(r"\d+|\.\.", text)]
    assert [part for part in parts if part not in said] == []


def test_the_api_page_says_what_each_of_the_webuis_passwords_protects():
    text = " ".join((ROOT / "docs/api.md").read_text(encoding="utf-8").split())
    assert "With `--api-auth`, every route asks" in text and "`--gradio-auth` protects the page only" in text
