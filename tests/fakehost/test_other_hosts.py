"""On a host that is not supported the extension says so and leaves its start alone; on Forge it is there."""

from __future__ import annotations

import os
import sys
import types
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import gradio as gr
import pytest

from tests.fakehost import forge


@pytest.fixture
def folder(fake_host, tmp_path):
    fake_host.modules["modules.shared"].cmd_opts.embeddings_dir = str(tmp_path)
    (tmp_path / "neg-render.pt").touch()
    return tmp_path


@pytest.fixture
def reforge(fake_host, folder, monkeypatch):
    """Ours on one of Forge's family without Forge's backend."""
    module = types.ModuleType("modules_forge")
    module.__spec__ = ModuleSpec("modules_forge", None)
    monkeypatch.setitem(sys.modules, "modules_forge", module)
    fake_host.load_scripts()
    return fake_host.scripts_data[-1].script_class()


@pytest.fixture
def on_forge(fake_host, folder, monkeypatch):
    forge.install(monkeypatch, fake_host, folder)
    fake_host.modules["modules.shared"].sd_model = SimpleNamespace()  # before a checkpoint is loaded
    fake_host.load_scripts()
    return fake_host.scripts_data[-1].script_class()


def test_the_gradio_is_the_one_that_was_asked_for():
    assert gr.__version__.startswith(os.environ.get("NEGTRANS_GRADIO", "6."))


@pytest.mark.parametrize("which", ["reforge", "on_forge"])
def test_the_panel_is_built_with_the_files_that_there_are(which, request):
    script = request.getfixturevalue(which)
    from lib_negtrans.apps.webui import embedding_list

    with gr.Blocks():
        assert len(script.ui(True)) > 1
    assert embedding_list.choices() == embedding_list.rescanned_choices() == ["None", "neg-render"]


def test_a_job_is_refused_by_the_hosts_name_before_its_arguments_are_read(reforge):
    with pytest.raises(Exception, match="does not work on reForge"):
        reforge.run(SimpleNamespace())


def test_neo_is_refused_too(on_forge, folder):
    from lib_negtrans.apps.webui.host import host
    from lib_negtrans.models.protocol import HostError

    (folder / "packages").mkdir()
    sys.modules["modules_forge"].__spec__.submodule_search_locations = [str(folder)]
    host.cache_clear()
    with pytest.raises(HostError, match="Forge Neo"):
        host()


def test_forge_is_known_by_what_it_has(on_forge):
    from lib_negtrans.apps.webui.host import host

    assert type(host()).__name__ == "Forge"


def test_embeddings_of_the_loaded_checkpoint_are_listed(fake_host, on_forge):
    from lib_negtrans.apps.webui import embedding_list

    read = []
    database = SimpleNamespace(
        word_embeddings={"b": 1, "A": 2}, skipped_embeddings={}, embedding_dirs={},
        load_textual_inversion_embeddings=lambda: read.append(1),
    )  # fmt: skip
    engine = SimpleNamespace(embeddings=database)
    fake_host.modules["modules.shared"].sd_model = SimpleNamespace(text_processing_engine=engine)
    assert embedding_list.rescanned_choices() == ["None", "A", "b"] and read == [1]


def test_a_panel_that_cannot_be_built_is_reported_and_the_host_goes_on(fake_host, monkeypatch):
    reported = []
    fake_host.load_scripts()
    fake_host.modules["modules.errors"].report = lambda message, exc_info: reported.append(message)
    from lib_negtrans.apps.webui import panel

    monkeypatch.delattr(panel, "script_panel")
    assert fake_host.scripts_data[-1].script_class().ui(True) == []
    assert reported == ["negtrans: the panel could not be built"]
