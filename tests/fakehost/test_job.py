"""What a translation puts on the host's processing object, and that it takes everything off again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lib_negtrans.translation import arguments


class Processing:
    """The host's img2img job, as far as the script touches it."""

    def __init__(self):
        self.steps, self.cfg_scale, self.denoising_strength = 20, 7.0, 0.5
        self.sampler_name, self.scheduler = "Euler a", "Karras"
        self.extra_generation_params = {"Theirs": 1}
        self.cached_c = self.cached_uc = ["class", "cache"]
        self.prompts, self.negative_prompts = ["", ""], ["blurry", ""]
        self.all_prompts, self.all_negative_prompts = ["", ""], ["blurry", ""]
        self.comments = []
        self.init_images = ["a picture"]
        self.seen = []
        self.sd_model = SimpleNamespace(get_first_stage_encoding=None)
        self.sampler = SimpleNamespace(model_wrap_cfg=SimpleNamespace(inner_model=SimpleNamespace()))

    def comment(self, text):
        self.comments.append(text)

    def init(self, *args):
        self.seen.append(("init", self.sampler_name, self.scheduler))

    def setup_conds(self):
        self.seen.append(("conds", list(self.negative_prompts)))
        self.prompts_of_conds = list(self.prompts)
        self.scale_of_conds = self.cfg_scale

    def sample(self, conditioning, unconditional_conditioning, **_):
        self.seen.append("plain sample")

    def get_token_merging_ratio(self, for_hr=False):
        return 0.5


@pytest.fixture
def job_module(fake_host, monkeypatch):
    torch = pytest.importorskip("torch")
    fake_host.embeddings["neg-render"] = SimpleNamespace(vec=torch.ones(2, 64))
    from lib_negtrans.apps.webui import job

    monkeypatch.setattr(job.Keeper, "find", lambda self: None)  # there is no picture to look at
    monkeypatch.setattr(job, "refuse_host", lambda: None)
    monkeypatch.setattr(job, "refuse_job", lambda p, inverts: None)
    return job


def make(job_module, p, **changes):
    return job_module.TranslationJob(p, lambda: arguments.parse([changes]))


def test_everything_is_taken_off_again(job_module):
    p = Processing()
    before = dict(vars(p))
    with pytest.raises(RuntimeError), make(job_module, p).attached():
        assert p.sample != before.get("sample")
        p.init()
        p.sample_before_CN_hack = p.sample  # ControlNet, which would call it for the next picture of a folder
        raise RuntimeError("in the middle")
    assert {k: v for k, v in vars(p).items() if k not in ("comments", "seen")} == {
        k: v for k, v in before.items() if k not in ("comments", "seen")
    }


@pytest.mark.parametrize("nothing", [[None], [], None])
def test_no_picture_is_said_before_the_host_fails(job_module, nothing):
    p = Processing()
    p.init_images = nothing
    with pytest.raises(job_module.TranslationRefused, match="There is no picture in img2img: drop a render"):
        make(job_module, p).check()


def test_a_method_that_another_extension_replaced_comes_back(job_module):
    p = Processing()
    theirs = p.sample = lambda **_: "theirs"
    with make(job_module, p).attached():
        assert p.sample is not theirs
    assert p.sample is theirs


def test_the_embedding_is_in_the_conditioning_only(job_module):
    p = Processing()
    with make(job_module, p, embedding="neg-render", embedding_weight=1.5).attached():
        p.init()
        p.setup_conds()
        assert p.negative_prompts == ["blurry", ""]
        assert p.extra_generation_params["NegTrans negative embedding"] == "neg-render"
        assert p.extra_generation_params["Theirs"] == 1
    assert p.seen[-1] == ("conds", ["(neg-render:1.5), blurry", "(neg-render:1.5)"])


def test_another_sampler_and_token_merging_are_not_silently_changed(job_module):
    p = Processing()
    with make(job_module, p).attached():
        assert p.get_token_merging_ratio() == 0
        p.init()
    assert p.seen == [("init", "DDIM", None)]
    assert any("Euler a was not used" in text for text in p.comments)
    assert any("token merging" in text for text in p.comments)


def test_the_hosts_cond_cache_is_not_used(job_module):
    p = Processing()
    with make(job_module, p).attached():
        assert p.cached_c == p.cached_uc == [None, None]
        assert p.cached_c is not p.cached_uc


def test_switched_off_it_is_the_plain_job(job_module):
    p = Processing()
    job = make(job_module, p, embedding="neg-render")
    job.enabled = False
    with job.attached():
        p.init()
        p.setup_conds()
        p.sample("c", "uc", seeds=[1])
        assert p.get_token_merging_ratio() == 0.5
    assert p.seen == [("init", "Euler a", "Karras"), ("conds", ["blurry", ""]), "plain sample"]
    assert "Script" not in p.extra_generation_params


def test_an_embedding_that_is_not_loaded_is_refused_by_name(job_module, fake_host):
    from lib_negtrans.apps.webui.refusal import TranslationRefused

    p = Processing()
    with (
        make(job_module, p, embedding="gone").attached(),
        pytest.raises(TranslationRefused, match=r"gone\. Loaded: neg-render") as e,
    ):
        p.init()
    assert (e.value.status_code, e.value.detail) == (422, str(e.value))


def test_a_refusal_is_short_whatever_it_repeats(fake_host):
    from lib_negtrans.apps.webui.refusal import TranslationRefused

    refusal = TranslationRefused(f"unknown preset {'x' * 20_000}; there are default, fast.")
    assert len(refusal.detail) < 600 and str(refusal) == refusal.detail
    assert refusal.detail.startswith("unknown preset x") and refusal.detail.endswith("there are default, fast.")


def test_exactly_the_steps_of_the_slider(job_module, fake_host):
    """The host's option "do exactly the amount of steps the slider specifies"."""
    fake_host.opts.img2img_fix_steps = True
    p = Processing()
    p.steps, p.denoising_strength = 15, 0.3
    _, params = make(job_module, p).check()
    assert (params.steps, int(params.steps * params.strength)) == (50, 15)
    assert len(params.timesteps) == 9  # step share says how many are taken


def test_a_grids_axes_share_one_job_and_leave_other_cells_alone(job_module, fake_host):
    from copy import copy

    from lib_negtrans.apps.webui import xyz

    p = Processing()
    p.scripts, p.script_args = SimpleNamespace(scripts=[]), []
    cell, other = copy(p), copy(p)
    xyz._setter("tac_ratio")(cell, 0.25, [])
    xyz._setter("strength")(cell, 0.7, [])
    xyz._setter("embedding")(cell, "neg-render", [])
    cell.init()
    assert cell.extra_generation_params["NegTrans TAC ratio"] == 0.25
    assert cell.extra_generation_params["NegTrans negative embedding"] == "neg-render"
    assert (cell.denoising_strength, other.denoising_strength) == (0.7, 0.5)
    assert other.extra_generation_params == {"Theirs": 1}
    assert "sample" not in vars(other)


def test_the_negative_prompt_is_encoded_at_scale_one_too(job_module):
    """Forge leaves it out there, and would multiply the picture by the weights of AND."""
    p = Processing()
    p.cfg_scale = 1
    with make(job_module, p).attached():
        p.init()
        p.setup_conds()
    assert p.scale_of_conds != 1 and p.cfg_scale == 1


def test_neutral_prompts_keywords_rule_and_it_is_said(job_module, monkeypatch):
    p = Processing()
    p.all_prompts = ["a photo AND_PERP red"] * 2
    monkeypatch.setattr(type(job_module.host()), "guided_by_others", lambda _, prompts: "AND_PERP" in prompts[0])
    with make(job_module, p, guidance="topk", cfg_rescale=0.5).attached():
        p.init()
        written = p.extra_generation_params
    assert written["NegTrans guidance"] == "cfg"
    assert written["NegTrans guidance stood down"] == "topk, CFG rescale 0.5"
    assert "NegTrans top-k ratio" not in written
    assert any("topk, CFG rescale 0.5 was not used" in text for text in p.comments)
    p.comments.clear()
    with make(job_module, p).attached():  # plain guidance has nothing to stand down from
        p.init()
    assert not any("neutral-prompt" in text for text in p.comments)
    # its words stay in the prompt, ours are left out everywhere
    p.prompts = p.all_prompts
    p.negative_prompts = p.all_negative_prompts = ["cg AND_TOPK doll"] * 2
    with make(job_module, p, concepts="wool :3").attached():
        p.init()
        p.setup_conds()
        assert [one.concepts for one in p._negtrans_job._batch()] == [(), ()]
        written = p.extra_generation_params
    assert written["NegTrans guidance stood down"] == "concepts" and "NegTrans concepts" not in written
    assert p.prompts_of_conds == p.all_prompts and p.seen[-1] == ("conds", ["cg", "cg"])


def test_concepts_are_taken_out_of_the_prompts_while_these_are_encoded(job_module):
    p = Processing()
    p.prompts = p.all_prompts = ["a photo AND_TOPK wool :0.6 AND red :0.5"] * 2
    p.negative_prompts = p.all_negative_prompts = ["AND_PERP doll"] * 2
    with make(job_module, p, embedding="neg-render", concepts="blue :3").attached():
        p.init()
        p.setup_conds()
        asked = p._negtrans_job._batch()
        assert p.extra_generation_params["NegTrans concepts"] == "blue :3"
    assert p.prompts_of_conds == ["a photo AND red :0.5"] * 2 and p.seen[-1] == ("conds", ["neg-render"] * 2)
    assert p.prompts == p.all_prompts and p.negative_prompts == ["AND_PERP doll"] * 2
    assert [(c.text, c.variant.name, c.weight) for c in asked[1].concepts] == [
        ("wool", "topk", 0.6), ("doll", "perp", -1.0), ("blue", "sega", 3.0),
    ]  # fmt: skip


def test_what_cannot_be_read_is_refused_before_the_inversion_and_a_batch_has_the_same_concepts(job_module):
    p = Processing()
    p.all_prompts = ["", "a AND_PERP [b AND_SALT c]"]
    with pytest.raises(job_module.TranslationRefused, match="AND_SALT within square"), make(job_module, p).attached():
        p.init()
    p.prompts = p.all_prompts = ["a AND_TOPK wool", "a AND_TOPK silk"]
    with make(job_module, p).attached():
        p.init()
        with pytest.raises(job_module.TranslationRefused, match="different concepts: set Batch size to 1"):
            p.setup_conds()
    with pytest.raises(job_module.TranslationRefused, match="Line 1 of Concepts: kind must be"):
        make(job_module, p, concepts="wool | kind=x").check()


def test_a_preset_axis_sets_the_hosts_sliders_that_the_preset_names(job_module, fake_host):
    from lib_negtrans.apps.webui import xyz

    p = Processing()
    p.scripts, p.script_args = SimpleNamespace(scripts=[]), []
    xyz._setter("preset")(p, "default", [])
    assert (p.steps, p.cfg_scale, p.denoising_strength) == (20, 7.0, 0.5)
    xyz._setter("preset")(p, "fashionr2r", [])
    assert (p.steps, p.cfg_scale, p.denoising_strength) == (50, 7.5, 0.3)
