"""What the extension registers with the webui, and that Reload UI leaves one of everything."""

from __future__ import annotations


def titles(host):
    return [d.script_class().title() for d in host.scripts_data if d.script_class.__module__ != "xyz_grid.py"]


def test_registers_one_script_and_its_callbacks(fake_host):
    fake_host.load_scripts()
    assert titles(fake_host) == ["Realistic Translation"]
    assert fake_host.counts()["on_ui_settings"] >= 1
    assert fake_host.counts()["on_script_unloaded"] == 1


def test_reload_twice_leaves_one_of_everything(fake_host):
    fake_host.load_scripts()
    fake_host.call("on_before_ui")
    counts, axes = fake_host.counts(), fake_host.axes
    for _ in range(2):
        fake_host.reload_ui()
        fake_host.call("on_before_ui")
        fake_host.call("on_before_ui")  # and a page that is built twice
        assert fake_host.counts() == counts
        assert fake_host.axes == axes
        assert titles(fake_host) == ["Realistic Translation"]
    assert len(axes) == len(set(axes))


def test_registering_on_top_of_itself_changes_nothing(fake_host):
    fake_host.load_scripts()
    counts = fake_host.counts()
    fake_host.load_scripts()
    assert fake_host.counts() == counts


def test_unloading_takes_the_axes_out(fake_host):
    fake_host.load_scripts()
    fake_host.call("on_before_ui")
    fake_host.call("on_script_unloaded")
    assert fake_host.axes == ["Nothing"]


def test_a_failing_part_is_reported_and_the_others_go_on(fake_host, monkeypatch):
    reported = []
    fake_host.modules["modules.errors"].report = lambda message, exc_info: reported.append(message)
    from lib_negtrans.apps.webui import registration

    monkeypatch.setattr(registration, "STEPS", ("lib_negtrans.apps.webui.no_such_part", *registration.STEPS))
    fake_host.load_scripts()
    assert reported == ["negtrans: no_such_part could not be registered"]
    assert fake_host.counts()["on_ui_settings"] >= 1


def test_settings_are_in_our_section_with_their_defaults(fake_host):
    fake_host.load_scripts()
    for callback in fake_host.callbacks["on_ui_settings"]:
        callback()
    ours = {key: info for key, info in fake_host.options.items() if key.startswith("negtrans_")}
    assert {info.section[0] for info in ours.values()} == {"negtrans"}
    from lib_negtrans.apps.webui import settings

    assert all(settings.option(key) == info.default for key, info in ours.items() if key in settings.OPTIONS)


def test_an_axis_for_each_number_and_choice(fake_host):
    from lib_negtrans.translation.arguments import PANEL_OPTIONS
    from lib_negtrans.translation.params import TranslationParams

    fake_host.load_scripts()
    fake_host.call("on_before_ui")
    options = TranslationParams.options()
    for name in ("strength", *PANEL_OPTIONS):
        assert f"[NegTrans] {options[name].label}" in fake_host.axes
