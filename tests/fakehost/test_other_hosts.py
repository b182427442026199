"""On a host that is not supported the extension says so, and leaves the host's own start alone."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import gradio as gr
import pytest


@pytest.fixture
def script(fake_host, monkeypatch, tmp_path):
    """Ours on Forge: no `embedding_db` where A1111 has it."""
    forge = types.ModuleType("modules_forge")
    forge.__spec__ = ModuleSpec("modules_forge", None)
    monkeypatch.setitem(sys.modules, "modules_forge", forge)
    del fake_host.modules["modules.sd_hijack"].model_hijack.embedding_db
    fake_host.modules["modules.shared"].cmd_opts.embeddings_dir = str(tmp_path)
    (tmp_path / "neg-render.pt").touch()
    fake_host.load_scripts()
    return fake_host.scripts_data[-1].script_class()


def test_the_panel_is_built_with_the_files_that_there_are(fake_host, script):
    from lib_negtrans.apps.webui import embedding_list

    with gr.Blocks():
        assert len(script.ui(True)) > 1
    assert embedding_list.choices() == embedding_list.rescanned_choices() == ["None", "neg-render"]


def test_a_job_is_refused_by_the_hosts_name_before_its_arguments_are_read(script):
    with pytest.raises(Exception, match="does not work on Forge yet"):
        script.run(SimpleNamespace())


def test_a_panel_that_cannot_be_built_is_reported_and_the_host_goes_on(fake_host, monkeypatch):
    reported = []
    fake_host.load_scripts()
    fake_host.modules["modules.errors"].report = lambda message, exc_info: reported.append(message)
    from lib_negtrans.apps.webui import panel

    monkeypatch.delattr(panel, "script_panel")
    assert fake_host.scripts_data[-1].script_class().ui(True) == []
    assert reported == ["negtrans: the panel could not be built"]
