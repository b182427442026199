"""An extension of the tests, for A1111 and Forge: counts the UNet's rows, and says so on GET /negtrans-test/rows."""

from modules import script_callbacks, shared

# not of this module: Reload UI runs it anew, and the loaded model keeps the former one's hook
_rows = vars(shared).setdefault("negtrans_test_rows", {"count": 0})


def _count(_module, args):
    _rows["count"] += args[0].shape[0]


def _model_loaded(model):
    forge = getattr(model, "forge_objects", None)
    unet = model.model.diffusion_model if forge is None else forge.unet.model.diffusion_model
    unet.register_forward_pre_hook(_count)


def _app_started(_demo, app):
    app.get("/negtrans-test/rows")(lambda: _rows["count"])


script_callbacks.on_model_loaded(_model_loaded)
script_callbacks.on_app_started(_app_started)
