"""The positive kinds in the loop: data, captions, prior preservation, validation, schedules, and bad input."""

from __future__ import annotations

import errno
import gc
import re

import numpy as np
import pytest
import torch
from diffusers import optimization
from PIL import Image
from safetensors.torch import load_file

from lib_negtrans.embeddings.files import EmbeddingError
from lib_negtrans.options import ParamError
from lib_negtrans.training import checkpoint, step
from lib_negtrans.training.data.batch import RowSource
from lib_negtrans.training.data.captions import Captions, PhotoWords
from lib_negtrans.training.data.latents import build_dataset
from lib_negtrans.training.errors import CheckpointError, DatasetError, TrainingError
from lib_negtrans.training.events import Finished, MakingClass, Notice, Preview, StepDone, Validated
from lib_negtrans.training.judging.preview import Previews
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.memory_estimate import saved_bytes
from lib_negtrans.training.parallel import Workers
from lib_negtrans.training.positive_params import LoraParams
from lib_negtrans.training.request import TrainingRequest, read_request
from lib_negtrans.training.run import Training
from tests.unit.test_training_inputs import drain
from tests.unit.test_training_lora import Run, make_photos, of, small


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "photos", 6)


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "renders", 4, 50)


def plain(**values):
    return small(**({"text_encoder": False, "conv_rank": 0, "batch_size": 1, "steps": 3} | values))


def test_captions_come_from_the_text_file_the_sub_folder_or_the_prompt(tmp_path):
    words = PhotoWords(tmp_path, "a photo of clothes", "a photo of a {folder}")
    (tmp_path / "red_coat").mkdir()
    (tmp_path / "a.txt").write_text("blue trousers")
    assert words(tmp_path / "a.png") == ("blue trousers", True)
    assert words(tmp_path / "b.png") == ("a photo of clothes", False)
    assert words(tmp_path / "red_coat" / "b.png") == ("a photo of a red coat", False)
    assert PhotoWords(tmp_path, "p", "")(tmp_path / "red_coat" / "b.png") == ("p", False)
    marked = PhotoWords(tmp_path, "photo of zkz, [filewords]", "a {folder}")
    assert marked(tmp_path / "a.png") == ("photo of zkz, blue trousers", True)
    assert marked(tmp_path / "12 hat.png") == ("photo of zkz, hat", False)


def test_a_row_depends_on_seed_step_and_number_alone(host, photos):
    _, data = drain(build_dataset(host, photos, plain(flip=True)))

    def source(seed=0, name="photos"):
        params = plain(flip=True, caption_dropout=0.3, latent_sampling="step", seed=seed)
        generator = torch.Generator()
        generator.seed()  # nothing comes from it
        return RowSource(data, Captions(("[filewords]",)), "", (0, 999), generator, params, 2, name)

    def drawn(rows):
        return [(row.timestep, row.caption, row.noise.tolist(), row.latent.tolist()) for row in rows]

    one, other = source(), source()
    other.draw(3, 0)  # the place in the epoch is state of its own
    other.load_state_dict(one.state_dict())
    first = drawn(one.draw(4, 7))
    assert first == drawn(other.draw(4, 7)) and first != drawn(source().draw(4, 8))
    assert first != drawn(source(1).draw(4, 7)) and first != drawn(source(name="prior").draw(4, 7))
    shares = []
    for rank in (0, 1):
        batches = source().batches(4, 1, workers=Workers(rank, 2), step=7)
        shares += [rows.noise[0].tolist() for rows in batches]
    assert shares == [row[2] for row in first], "two processes do the rows of one"
    assert {row[1] for row in drawn(source().draw(60, 3))} >= {""}, "captions are dropped"


def test_schedules_are_diffusers_but_for_lost_steps():
    total, warmup = 40, 8

    def ours(**values):
        rates = plain(steps=total, lr="1e-3", warmup=warmup, **values).rates
        return [rates.rate(done) / 1e-3 for done in range(total)]

    def theirs(make, **options):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
        found = make(optimizer, warmup, total, **options).lr_lambdas[0]
        return [found(done) for done in range(total)]

    for values, make, options in (
        ({"scheduler": "linear"}, optimization.get_linear_schedule_with_warmup, {}),
        ({"scheduler": "cosine"}, optimization.get_cosine_schedule_with_warmup, {}),
        ({"scheduler": "cosine_with_restarts", "restarts": 3},
         optimization.get_cosine_with_hard_restarts_schedule_with_warmup, {"num_cycles": 3}),
        ({"scheduler": "polynomial", "power": 2.0},
         optimization.get_polynomial_decay_schedule_with_warmup, {"power": 2.0, "lr_end": 0.0}),
    ):  # fmt: skip
        assert ours(**values)[warmup:] == pytest.approx(theirs(make, **options)[warmup:], abs=1e-6)
        assert min(ours(**values)) > 0
    assert ours(scheduler="constant") == [(i + 1) / 9 for i in range(8)] + [1.0] * 32


def test_another_number_of_steps_is_another_schedule(tmp_path, host, photos):
    run = Run(tmp_path, host, photos)
    run.finish(plain(scheduler="cosine"))
    with pytest.raises(CheckpointError, match="Steps 3 before, 5 now"):
        run.finish(plain(scheduler="cosine", steps=5), resume=True, overwrite=True)


def test_the_base_prediction_holds_the_model_and_weighs_what_the_option_says(tmp_path, host, photos, renders):
    found = {}
    for name, values in {
        "none": {}, "zero": {"prior": "base", "prior_weight": 0.0}, "base": {"prior": "base", "prior_weight": 1.0},
        "heavy": {"prior": "base", "prior_weight": 30.0},
    }.items():  # fmt: skip
        run = Run(tmp_path / name, host, photos)
        events = run.finish(plain(**values), renders=renders)
        found[name] = load_file(run.out), of(events, StepDone), run.results[1].decode().splitlines()[0]
    for key, value in found["none"][0].items():
        assert torch.equal(value, found["zero"][0][key]), "without weight it is no prior, to the bit"
    assert found["none"][1][0].prior_loss is None and "prior_loss" not in found["none"][2]
    steps = found["base"][1]
    assert steps[0].prior_loss == 0.0 and steps[2].prior_loss > 0 and found["base"][2].endswith(",prior_loss")
    assert steps[0].loss == found["none"][1][0].loss, "the photos' rows are the same with and without"
    moved = {name: steps[-1].change for name, (_, steps, _) in found.items()}
    assert found["heavy"][1][-1].prior_loss < found["base"][1][-1].prior_loss and moved["heavy"] > 0
    key = next(key for key in found["base"][0] if key.endswith("lora_up.weight"))
    assert not torch.equal(found["base"][0][key], found["heavy"][0][key])


def test_missing_class_pictures_are_made_and_others_kept(tmp_path, host, photos):
    folder = tmp_path / "class"
    make_photos(folder, 1)
    before = (folder / "0.png").read_bytes()
    run = Run(tmp_path / "run", host, photos)
    params = plain(prior="class", class_count=3, class_steps=2, class_prompt="a coat")
    events = run.finish(params, class_images=folder)
    assert [(e.done, e.total) for e in of(events, MakingClass)] == [(1, 2), (2, 2)]
    assert len(list(folder.glob("*.png"))) == 3 and (folder / "0.png").read_bytes() == before
    assert all(step.prior_loss > 0 for step in of(events, StepDone))
    again = Run(tmp_path / "again", host, photos)
    assert not of(again.finish(params, class_images=folder), MakingClass)
    assert again.results[1] == run.results[1]


def test_validation_tells_photos_from_renders_and_stops(tmp_path, host, photos, renders):
    run = Run(tmp_path, host, photos)
    params = plain(steps=12, lr="3e-2", validate_every=1, patience=2, result="best", holdout=2)
    events = run.finish(params, renders=renders)
    found = of(events, Validated)
    assert found[0].gain == found[0].other_gain == 0.0 and found[0].other == "renders" and not found[0].nearest
    assert all(e.gap == pytest.approx(e.gain - e.other_gain) for e in found)
    assert "photos" in found[-1].text or "renders" in found[-1].text
    if found[-1].step < 12:
        assert any("stopped early" in str(e) for e in of(events, Notice))
    assert isinstance(events[-1], Finished) and len(load_file(run.out)) > 100


def test_previews_show_a_translation_and_prompts(tmp_path, host, photos, renders):
    params = plain(sample_prompts="a coat | a hat", preview_every=2)
    preview = Previews(host, renders / "0.png", params, tmp_path / "previews")
    events = Run(tmp_path, host, photos).finish(params, preview=preview)
    assert [e.step for e in of(events, Preview)] == [2, 3] and not any("preview failed" in str(e) for e in events)
    with Image.open(of(events, Preview)[0].result) as sheet:
        assert sheet.width > 3 * 256
    only = Previews(host, None, params, tmp_path / "prompts")
    assert of(Run(tmp_path / "b", host, photos).finish(params, preview=only), Preview)


def test_the_request_knows_its_kind(tmp_path, host, photos, renders):
    run = Run(tmp_path, host, photos)
    run.finish(plain(steps=1), renders=renders, validation_renders=renders, class_images=tmp_path / "class")
    request = read_request(tmp_path / "run")
    assert request.kind == "lora" and isinstance(request.params, LoraParams) and request.params.rank == 2
    assert request.folders.photos == photos and request.folders.renders == renders
    assert (request.validation_renders, request.class_images) == (renders, tmp_path / "class")


def test_the_garment_weighs_more_than_what_is_around_it(tmp_path, host):
    folder = make_photos(tmp_path / "photos", 1)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(folder / "0_mask.png")
    _, data = drain(build_dataset(host, folder, plain(outside_weight=0.25)))
    weight = data.encoded(0).weight[0]
    assert len(data) == 1 and (weight[:, :4] == 1).all() and (weight[:, 4:] == 0.25).all()
    _, data = drain(build_dataset(host, folder, plain()))
    assert data.encoded(0).weight is None


def test_the_estimate_of_memory_grows_with_what_is_asked(tmp_path, host, photos):
    def said(**values):
        events = Run(tmp_path / str(len(list(tmp_path.iterdir()))), host, photos).finish(plain(steps=1, **values))
        (text,) = (str(e) for e in of(events, Notice) if "The training needs about" in str(e))
        return [float(number) for number in re.findall(r"(\d+(?:\.\d+)?) MB", text)]

    small_one, large = said(), said(size=128, batch_size=2, rank=16)
    assert large[0] > small_one[0] and large[2] > small_one[2] and large[3] > 4 * small_one[3]


def test_the_estimate_leaves_nothing_in_memory(host):
    def there():
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    trainable = KINDS["lora"](host, plain(), "photo-look")
    with host.training(), trainable.applied(trainable.weights):
        saved_bytes(host, 8)
        before = there()
        assert saved_bytes(host, 8) > 0
    assert there() <= before


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rank": 0}, "Rank must lie between 1 and 1024, not 0"),
        ({"alpha": 0.0}, "Alpha must lie between 0.001"),
        ({"prior": "class", "class_prompt": " "}, "Class prompt is needed"),
        ({"folder_prompt": "a photo"}, "lacks {folder}"),
        ({"warmup": 4}, "Warm-up must be shorter"),
    ],
)
def test_bad_options_get_one_sentence(values, says):
    with pytest.raises(ParamError) as error:
        small(**values)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_bad_input_gets_one_sentence_and_nothing_is_lost(tmp_path, host, photos, monkeypatch):
    run = Run(tmp_path / "a", host, photos)
    with pytest.raises(ParamError, match="must be above 0 and at most 1"):
        run.job(plain(lr="1e9"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="No pictures were found"):
        Run(tmp_path / "b", host, tmp_path / "empty").finish(plain())
    with pytest.raises(DatasetError, match="needs a folder for them"):
        run.job(plain(prior="class"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match=r"class folder .* cannot be used"):
        run.finish(plain(prior="class"), class_images=tmp_path / "file")
    with pytest.raises(EmbeddingError, match="contains"):
        request = TrainingRequest("a b", photos, plain(), kind="lora")
        Training(request, host, tmp_path / "x", tmp_path / "a b.safetensors")
    run.finish(plain(steps=1))
    before = run.out.read_bytes()
    with pytest.raises(TrainingError, match="resume it, or allow overwriting"):
        run.job(plain())
    other = Run(tmp_path / "c", host, photos)
    other.out = run.out
    with pytest.raises(TrainingError, match="exists already"):
        other.job(plain())
    assert run.out.read_bytes() == before
    one = make_photos(tmp_path / "one", 1)
    events = Run(tmp_path / "d", host, one).finish(plain(steps=1, validate_every=1))
    assert isinstance(events[-1], Finished) and any("too few photos" in str(e) for e in of(events, Notice))


def test_memory_or_disk_that_runs_out_is_one_sentence_and_resuming_goes_on(tmp_path, host, photos, monkeypatch):
    whole, run = (Run(tmp_path / name, host, photos) for name in ("whole", "broken"))
    whole.finish(plain())
    with monkeypatch.context() as patch:
        real = step.Stepper._gradient

        def fails(self):
            if self.state.step == 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return real(self)

        patch.setattr(step.Stepper, "_gradient", fails)
        with pytest.raises(TrainingError, match=r"Step 3 failed. Memory ran out: lower .* The 2 good steps are kept"):
            run.finish(plain())
    with monkeypatch.context() as patch:

        def full_disk(stream, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(checkpoint, "write_safetensors", full_disk)
        with pytest.raises(TrainingError, match="No space left on device"):
            run.finish(plain(), resume=True)
    assert not run.out.exists()
    run.finish(plain(), resume=True)
    assert run.results == whole.results
