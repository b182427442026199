"""The identities of concepts (METHOD 6): each kind against its formula written out, and all of them together."""

from __future__ import annotations

import itertools

import pytest
import torch

from lib_negtrans.core.guidance import VARIANTS, Concept, Guidance, cfg
from lib_negtrans.core.guidance.classifier_free import ClassifierFree
from lib_negtrans.core.guidance.perp import Perp
from lib_negtrans.core.guidance.salience import Salience
from lib_negtrans.core.guidance.sega import Sega
from lib_negtrans.core.guidance.topk import ConceptTopK, TopK

W = 7.5
EACH = {
    "cfg": ClassifierFree(), "perp": Perp(), "topk": TopK(0.05), "salience": Salience(),
    "sega": Sega(threshold=0.9, warmup=0),
}  # fmt: skip


def predictions(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = ("empty", "cond", "negative", "wool", "red")
    return {name: torch.randn(2, 4, 8, 8, generator=generator).double() for name in names}


def guided(*concepts: Concept, kind: str = "cfg", scale: float = W, step: int = 3, **more) -> torch.Tensor:
    p = predictions()
    guidance = Guidance(kind, more.pop("options", None), concepts=concepts, **more)
    return guidance(p["empty"], p["cond"], p["negative"], scale, step, p)


def added(concept: Concept, **how) -> torch.Tensor:
    return guided(concept, **how) - guided(**how)


def test_every_kind_is_tested():
    assert set(EACH) == set(VARIANTS)


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("guidance", VARIANTS)
def test_weight_0_is_no_concept_to_the_bit(kind, guidance):
    for scale in (W, 1.0):
        none = guided(Concept("wool", EACH[kind], 0.0), kind=guidance, scale=scale, rescale_amount=0.5)
        assert torch.equal(none, guided(kind=guidance, scale=scale, rescale_amount=0.5))
    assert not Guidance(concepts=[Concept("wool", EACH[kind], 0.0)]).concepts.texts


def test_a_concept_of_kind_cfg_is_a_prompt_composed_by_and():
    p = predictions()
    composed = p["cond"] + 0.4 * (p["wool"] - p["negative"]) - 0.3 * (p["red"] - p["negative"])
    both = Concept("wool", ClassifierFree(), 0.4), Concept("red", ClassifierFree(), -0.3)
    torch.testing.assert_close(guided(*both), cfg(p["negative"], composed, W))
    # and every variant guides towards what was composed
    for kind in VARIANTS:
        expected = Guidance(kind)(p["empty"], composed, p["negative"], W, 3)
        torch.testing.assert_close(guided(*both, kind=kind), expected)


def test_perp_adds_what_is_perpendicular_to_the_prompts_direction():
    p = predictions()
    moved = added(Concept("wool", Perp(), 0.4)) / (W * 0.4)
    direction, own = p["cond"] - p["negative"], p["wool"] - p["negative"]
    assert (moved * direction).flatten(1).sum(1).abs().max() < 1e-9
    along = (own - moved).flatten(1)  # and what is left out is all along it
    cosine = torch.nn.functional.cosine_similarity(along, direction.flatten(1)).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_concept_keeps_as_many_values_as_neutral_prompt_does():
    """Its `filter_abs_top_k`, in other words: what reaches the int(size * 0.95)-th smallest magnitude."""
    for shape in ((1, 4, 16, 16), (1, 4, 64, 64), (1, 4, 13, 9)):
        v = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
        smallest = v.abs().flatten().sort().values[int(v.numel() * (1 - 0.05)) - 1]
        kept = ConceptTopK().part_of(v, v, 0)
        assert torch.equal(kept, torch.where(v.abs() >= smallest, v, 0.0))
    assert torch.equal(ConceptTopK(1.0).part_of(v, v, 0), v)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0])
def test_topk_adds_exactly_its_share_of_the_concepts_direction(ratio):
    p = predictions()
    moved = added(Concept("wool", TopK(ratio), 0.4)) / (W * 0.4)
    own = p["wool"] - p["negative"]
    kept = moved.abs() > 1e-12
    assert kept.flatten(1).sum(1).tolist() == [round(ratio * 256)] * 2
    torch.testing.assert_close(moved[kept], own[kept])
    if ratio < 1:
        for one, keeps in zip(own, kept, strict=True):
            assert one[keeps].abs().min() >= one[~keeps].abs().max()


def test_salience_is_the_published_winner_takes_all():
    """Softmax of magnitudes over all values of a picture; the winner among the prompt and both concepts."""
    p = predictions()
    d, first, second = (p[name] - p["negative"] for name in ("cond", "wool", "red"))
    expected = torch.zeros_like(d)
    for picture in range(2):
        maps = [v[picture].abs().flatten().softmax(0).reshape(d[0].shape) for v in (d, first, second)]
        for index in itertools.product(*map(range, d[0].shape)):
            winner = max(range(3), key=lambda place, maps=maps, index=index: float(maps[place][index]))
            weight, vector = [(0.0, d), (0.4, first), (-0.7, second)][winner]
            expected[picture][index] = weight * (vector[picture][index] - d[picture][index])
    found = guided(Concept("wool", Salience(), 0.4), Concept("red", Salience(), -0.7)) - guided()
    torch.testing.assert_close(found, W * expected)


def test_sega_is_measured_from_the_empty_prompt_and_its_scale_is_its_own():
    p = predictions()
    direction = p["wool"] - p["empty"]
    everything = Concept("wool", Sega(threshold=0, warmup=0, momentum=0), -3.0)
    for scale in (W, 2.0, 1.0):
        torch.testing.assert_close(added(everything, scale=scale), -3.0 * direction)
    strongest = added(Concept("wool", EACH["sega"], 2.0)) / 2.0
    kept = strongest.abs() > 1e-12
    assert kept.flatten(2).sum(2).tolist() == [[7] * 4] * 2  # of 64 values of each channel, those above quantile .9
    torch.testing.assert_close(strongest[kept], direction[kept])
    # cfg at w with an empty prompt is SEGA away from the negative with scale w - 1 (METHOD 6)
    p["cond"] = p["empty"]
    away = Concept("negative", Sega(threshold=0, warmup=0, momentum=0), -(W - 1))
    found = Guidance(concepts=[away])(p["empty"], p["empty"], p["empty"], W, 0, p)
    torch.testing.assert_close(found, cfg(p["negative"], p["empty"], W))


def test_concepts_of_different_kinds_add_up_and_their_order_does_not_matter():
    concepts = [
        Concept("wool", Perp(), 0.4), Concept("red", TopK(0.05), -0.6), Concept("wool", EACH["sega"], 3.0),
        Concept("red", Salience(), 0.5), Concept("red", EACH["sega"], -2.0),
    ]  # fmt: skip
    together = guided(*concepts)
    torch.testing.assert_close(together - guided(), sum(map(added, concepts)))
    composing = Concept("wool", ClassifierFree(), 0.2)
    for order in itertools.islice(itertools.permutations([*concepts, composing]), 0, None, 97):
        torch.testing.assert_close(guided(*order), guided(*concepts, composing))


@pytest.mark.parametrize("kind", EACH)
def test_a_schedule_is_from_warmup_to_before_cooldown(kind):
    concept = Concept("wool", EACH[kind], 0.5, warmup=2, cooldown=4)
    p, guidance = predictions(), Guidance(concepts=[concept])
    moved = [not torch.equal(guidance(p["empty"], p["cond"], p["negative"], W, step, p), guided()) for step in range(6)]
    assert moved == [False, False, True, True, False, False]


def test_segas_momentum_grows_during_the_warm_up_and_is_each_translations_own():
    p, concept = predictions(), Concept("wool", Sega(warmup=0, momentum=0.5), 1.0, warmup=2)
    first, other = Guidance(concepts=[concept]), Guidance(concepts=[concept])
    results = [first(p["empty"], p["cond"], p["negative"], W, step, p) for step in range(3)]
    at_once = other(p["empty"], p["cond"], p["negative"], W, 2, p)
    assert (results[2] - guided()).norm() > (at_once - guided()).norm()


def test_which_predictions_are_read_and_each_text_once():
    towards, alone = Concept("wool", TopK(0.05)), Concept("wool", EACH["sega"])
    assert Guidance(concepts=[towards, alone, Concept("red", Perp())]).concepts.texts == ("wool", "red")
    for concepts, empty, negative in (((towards,), False, True), ((alone,), True, False), ((), False, False)):
        guidance = Guidance(concepts=concepts)
        assert (guidance.reads_empty(1), guidance.reads_negative(1)) == (empty, negative)
        assert (guidance.reads_empty(W), guidance.reads_negative(W)) == (empty, True)
        assert guidance.is_plain == (not concepts)


def test_at_scale_1_concepts_are_added_to_the_prompts_prediction():
    p = predictions()
    found = guided(Concept("wool", TopK(1.0), 0.4), scale=1.0)
    torch.testing.assert_close(found, p["cond"] + 0.4 * (p["wool"] - p["negative"]))
