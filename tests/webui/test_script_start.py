"""The extension in a real webui: it starts without a word of ours, quickly, and Reload UI leaves one of everything."""

from __future__ import annotations

import re


def test_starts_without_a_warning_of_ours(webui):
    blamed = [line for line in webui.start_log.splitlines() if "negtrans" in line.lower() and "safetensors" not in line]
    # a clone without a remote is a test's own doing
    assert [line for line in blamed if "Git repository" not in line and "yaml" not in line and "git" not in line] == []


def test_script_is_listed_for_img2img_only(webui):
    listed = webui.get("/sdapi/v1/scripts").json()
    assert listed["img2img"].count("realistic translation") == 1
    assert "realistic translation" not in listed["txt2img"]


def test_start_up_cost(webui):
    """The webui's own profile: at most 0.3 s for loading our scripts/negtrans.py, on a machine that does nothing else.

    One that imports torch in more than 5 s is busy, and gets as much longer.
    """
    profile = webui.start_profile

    def seconds(records):
        found = 0.0
        for name, value in records.items():
            if name.split("/")[-1] == "negtrans.py":
                found += value
        return found

    spent = seconds(profile["records"])
    assert re.search("load scripts", str(profile))
    busy = max(1.0, profile["records"]["import torch"] / 5)
    assert 0 < spent <= 0.3 * busy, (spent, busy)
