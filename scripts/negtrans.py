"""Registers the extension with the webui; everything else is in lib_negtrans."""

from lib_negtrans.apps.webui.registration import register_all
from lib_negtrans.apps.webui.script import RealisticTranslation

__all__ = ["RealisticTranslation"]  # the webui lists every Script class that it finds in this module

register_all()
