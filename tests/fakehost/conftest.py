"""The stand-in for the webui as a fixture."""

from __future__ import annotations

import sys

import pytest

from tests.fakehost.host import OWN_PACKAGES, FakeHost


def _forget_package(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith(OWN_PACKAGES)]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def fake_host(monkeypatch):
    """`modules.*` of a webui; our package is imported anew for it and forgotten afterwards."""
    host = FakeHost()
    _forget_package(monkeypatch)
    for name, module in host.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield host
    for name in [name for name in sys.modules if name.startswith(OWN_PACKAGES)]:
        del sys.modules[name]
