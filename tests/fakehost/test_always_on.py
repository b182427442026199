"""The script beside others' panels: chosen by a setting, on by its switch, off without a trace."""

from __future__ import annotations

import gradio as gr
import pytest

from lib_negtrans import TITLE
from lib_negtrans.options import ParamError
from lib_negtrans.translation import arguments
from tests.fakehost.test_job import Processing


@pytest.fixture
def script(fake_host, monkeypatch):
    pytest.importorskip("torch")
    fake_host.opts.negtrans_always_on = True
    fake_host.load_scripts()
    from lib_negtrans.apps.webui import job

    monkeypatch.setattr(job.Keeper, "find", lambda self: None)
    monkeypatch.setattr(job, "refuse_host", lambda: None)
    monkeypatch.setattr(job, "refuse_job", lambda p, inverts: None)
    made = fake_host.scripts_data[-1].script_class()
    made.alwayson = True
    return made


class Closing(Processing):
    closed = 0

    def close(self):
        self.closed += 1


def panel_values(enabled, **changes):
    return [changes.get(name) if name != "version" else 1 for name in arguments.NAMES] + [enabled]


def untouched(p) -> bool:
    return not {"init", "sample", "close", "_negtrans_job", "_negtrans_running"} & vars(p).keys()


def test_the_setting_chooses_where_it_is(script, fake_host):
    visible = fake_host.modules["modules.scripts"].AlwaysVisible
    assert (script.show(True), script.show(False)) == (visible, False)
    fake_host.opts.negtrans_always_on = False
    assert (script.show(True), script.show(False)) == (True, False)


def test_a_job_is_a_translation_between_its_callbacks_and_nothing_stays(script):
    p = Closing()
    script.before_process(p, *panel_values(True, tac_ratio=0.25))
    p.init()
    assert p.extra_generation_params["NegTrans TAC ratio"] == 0.25 and p.extra_generation_params["Script"] == TITLE
    script.postprocess(p, None, *panel_values(True))
    # a grid writes its own text from what the job wrote
    written = dict(p.extra_generation_params)
    assert untouched(p) and (written["NegTrans TAC ratio"], written["Theirs"]) == (0.25, 1)
    # the Batch tab and loops take the same object again
    script.before_process(p, *panel_values(True, tac_ratio=0.5))
    p.init()
    assert not untouched(p) and p.extra_generation_params["NegTrans TAC ratio"] == 0.5
    p.close()  # as the host does where it failed
    assert untouched(p) and p.closed == 1 and p.extra_generation_params == written


def test_switched_off_nothing_is_touched(script):
    for given in (panel_values(False), [{"enabled": False}, *panel_values(True)[1:]], []):
        p = Closing()
        script.before_process(p, *given)
        assert untouched(p)


def test_a_job_that_fails_leaves_the_generators_as_they_were(script):
    import torch

    p = Closing()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    script.before_process(p, *panel_values(True))
    torch.rand(5)
    p.close()
    assert torch.equal(torch.rand(1), expected)


def test_an_axis_of_the_grid_goes_before_the_panel(script):
    from types import SimpleNamespace

    from lib_negtrans.apps.webui import xyz

    p = Closing()
    script.args_from, script.args_to = 1, 2 + len(arguments.NAMES)
    p.scripts = SimpleNamespace(scripts=[script])
    p.script_args = [0, *panel_values(False, tac_blend=0.5)]
    xyz._setter("tac_ratio")(p, 0.1, [])
    script.before_process(p, *p.script_args[1:])
    p.init()
    written = p.extra_generation_params
    assert (written["NegTrans TAC ratio"], written["NegTrans TAC blend"]) == (0.1, 0.5)


def test_an_object_over_the_api_needs_no_switch():
    defaults = panel_values(False)[1:]
    assert arguments.switched([{"preset": "texture"}, *defaults]) == (True, [{"preset": "texture"}])
    assert arguments.switched(panel_values(True, mask="auto"))[0]
    with pytest.raises(ParamError, match="'enabled'"):  # in the dropdown it is chosen or not
        arguments.named([{"enabled": True}])


def test_a_pasted_picture_switches_it_on_and_chooses_no_script(script, fake_host):
    from lib_negtrans.apps.webui.infotext_fields import reader

    (paste,) = fake_host.callbacks["on_infotext_pasted"]
    fields = {"Script": TITLE, "NegTrans TAC ratio": "0.25"}
    paste("", fields)
    assert "Script" not in fields and reader("tac_ratio")(fields) == 0.25
    with gr.Blocks():
        inputs = script.ui(True)
    switch, is_on = script.infotext_fields[-1]
    assert switch is inputs[-1] and is_on(fields) and not is_on({"Script": "X/Y/Z plot"})
    assert len(inputs) == len(arguments.NAMES) + 1
    fake_host.opts.negtrans_always_on = False
    fields = {"Script": TITLE}
    paste("", fields)
    assert fields == {"Script": TITLE}
