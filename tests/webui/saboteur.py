"""An extension of the tests, for A1111 and Forge: raises in the middle of sampling when its argument names a step."""

from modules import scripts


class Saboteur(scripts.Script):
    def title(self):
        return "negtrans test saboteur"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        import gradio as gr

        return [gr.Number(label="step", value=-1, visible=False)]

    def process_before_every_sampling(self, p, step, **kwargs):
        if step is None or step < 0:
            return
        denoiser = p.sampler.model_wrap_cfg

        def combine_denoised(*_args, **_kwargs):
            if denoiser.step >= step:
                raise RuntimeError("sabotage")
            return type(denoiser).combine_denoised(denoiser, *_args, **_kwargs)

        def modifier(*given):
            if denoiser.step >= step:
                raise RuntimeError("sabotage")
            return given

        if not hasattr(p.sd_model, "forge_objects"):
            denoiser.combine_denoised = combine_denoised
            return
        unet = p.sd_model.forge_objects.unet.clone()
        unet.add_conditioning_modifier(modifier)
        p.sd_model.forge_objects.unet = unet
