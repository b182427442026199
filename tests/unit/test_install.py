"""install.py says what is too old and touches nothing."""

from __future__ import annotations

import install


def test_nothing_to_say_about_the_hosts_own_versions():
    host = {"torch": "2.1.2+cu121", "gradio": "3.41.2", "safetensors": "0.4.2", "numpy": "1.26.2", "Pillow": "9.5.0"}
    assert install.problems((3, 10), host) == []


def test_old_and_missing_are_named():
    found = install.problems(
        (3, 9), {"torch": "1.13.1", "gradio": None, "safetensors": "0.4", "numpy": "2.0", "Pillow": "10.0"}
    )
    assert [sentence.split()[0] for sentence in found] == ["Python", "torch", "gradio"]
    assert "2.0 or newer" in found[1]


def test_versions_of_every_shape():
    assert install.parse("2.1.2+cu121") == (2, 1, 2)
    assert install.parse("2.3.0rc1") == (2, 3)
    assert install.parse("3.41") == (3, 41)
