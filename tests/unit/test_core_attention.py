"""Layer lists, capture and injection, and that no hook outlives its context, on ldm and diffusers modules alike."""

from __future__ import annotations

import copy

import pytest
import torch

from lib_negtrans.core.attention import AttentionControl, AttentionShapeError, self_attention_layers, shallow_layers
from lib_negtrans.core.inversion import inversion_steps
from lib_negtrans.core.schedule import Schedule, sd1_alphas_cumprod
from lib_negtrans.core.tac import TacPlan
from lib_negtrans.core.translate import Method, translation_steps
from tests.ldm_unet import call, diffusers_unet, drawn, ldm_twin

SHALLOW = ["IN01", "IN02", "IN04", "IN05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"]
FAMILIES = ("diffusers", "ldm")
SIZE = (16, 16)


@pytest.fixture(scope="module")
def unets():
    unet = diffusers_unet()
    return {"diffusers": unet, "ldm": ldm_twin(unet)}


@pytest.fixture(params=FAMILIES)
def unet(request, unets):
    yield unets[request.param]
    assert hook_count(unets[request.param]) == 0


def hook_count(unet) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


def context(rows, seed=1):
    return drawn(rows, 7, 16, seed=seed)


# --- which layers


def test_sixteen_layers_of_sd15(sd15):
    layers = self_attention_layers(sd15)
    assert [layer.name for layer in layers] == [
        "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00",
        "OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11",
    ]  # fmt: skip
    assert [layer.level for layer in layers] == [0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert [layer.tokens(64, 64) for layer in layers][:7] == [4096, 4096, 1024, 1024, 256, 256, 64]


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (96, 64), (65, 71)])
@pytest.mark.parametrize(("flag", "count"), [(63, 0), (64, 5), (256, 10), (1024, 15), (4096, 16)])
def test_layers_of_a_flag(sd15, size, flag, count):
    names = [layer.name for layer in shallow_layers(sd15, size, flag)]
    assert len(names) == count
    if flag == 256:
        assert names == SHALLOW


@pytest.mark.parametrize("size", [(16, 16), (9, 13)])
def test_announced_token_counts_are_the_real_ones(unet, size):
    layers = self_attention_layers(unet) if size == SIZE else self_attention_layers(unet)[:6]
    control = AttentionControl(layers)
    with control, control.capture(stop_early=True) as features:
        # odd sizes fail on the way up in ldm (the host pads them); the way down is enough
        call(unet, drawn(1, 4, *size), 281, context(1))
    assert {name: q.shape[1] for name, (q, _) in features.items()} == {
        layer.name: layer.tokens(*size) for layer in layers
    }


# --- no hook outlives its context


def active_control(unet, flag=256):
    return AttentionControl(shallow_layers(unet, SIZE, flag))


def assert_clean(unet):
    assert hook_count(unet) == 0
    assert all("forward" not in vars(module) for module in unet.modules())


def test_hooks_are_there_and_gone(unet):
    with active_control(unet) as control:
        assert hook_count(unet) > 0
        with control.capture():
            call(unet, drawn(1, 4, *SIZE), 281, context(1))
        assert all("forward" not in vars(module) for module in unet.modules())
    assert_clean(unet)


def test_hooks_are_gone_after_an_error(unet):
    control = active_control(unet)
    with pytest.raises(ZeroDivisionError), control, control.capture():
        call(unet, drawn(1, 4, *SIZE), 281, context(1))
        raise ZeroDivisionError
    assert_clean(unet)
    with pytest.raises(ZeroDivisionError), control:
        raise ZeroDivisionError
    assert_clean(unet)
    # a control can be opened again, without the features of the failed call
    with control, control.capture() as features:
        pass
    assert features == {}


def test_hooks_are_gone_after_an_error_inside_the_unet(unet):
    def explode(*_):
        raise ZeroDivisionError

    block = next(m for name, m in unet.named_modules() if name.endswith(("middle_block.0", "mid_block.resnets.0")))
    handle = block.register_forward_pre_hook(explode)
    try:
        with (
            pytest.raises(ZeroDivisionError),
            active_control(unet) as control,
            control.capture(),
        ):
            call(unet, drawn(2, 4, *SIZE), 281, context(2))
    finally:
        handle.remove()
    assert_clean(unet)


def test_hooks_are_gone_when_a_hook_cannot_be_put(unet):
    layers = shallow_layers(unet, SIZE, 256)
    broken = copy.copy(layers[3])
    object.__setattr__(broken, "module", torch.nn.Identity())
    with pytest.raises(AttributeError), AttentionControl([*layers[:3], broken]):
        pass
    assert_clean(unet)


def test_hooks_are_gone_after_stop_early(unet):
    with active_control(unet) as control, control.capture(stop_early=True) as features:
        call(unet, drawn(1, 4, *SIZE), 281, context(1))
        pytest.fail("the forward was not cut off")
    assert list(features) == SHALLOW
    assert_clean(unet)


def test_hooks_are_gone_when_a_job_is_interrupted(unet):
    schedule = Schedule.from_strength(sd1_alphas_cumprod(), 10, 0.5)
    control = active_control(unet)

    def predict(z, timestep):
        return call(unet, z, timestep, context(1))

    def guided(z, position, features):
        with control.inject(features, [-1, 0]):
            return call(unet, torch.cat([z, z]), schedule.timestep(position), context(2)).chunk(2)[1]

    def job():
        with control:
            trajectory = yield from inversion_steps(drawn(1, 4, *SIZE), schedule, predict, capture=control)
            yield from translation_steps(
                trajectory.latents[-1], schedule, guided, Method(tac_steps=5), trajectory=trajectory
            )

    for stop_after in (2, 7):  # in the inversion, in the translation
        steps = job()
        for _ in range(stop_after):
            next(steps)
        assert hook_count(unet) > 0
        steps.close()
        assert_clean(unet)


def test_misuse_is_refused(unet):
    control = active_control(unet)
    with pytest.raises(RuntimeError, match="outside its context"), control.capture():
        pass
    with pytest.raises(RuntimeError, match="outside its context"), control.inject({}, [0]):
        pass
    with control:
        with pytest.raises(RuntimeError, match="already active"), control:
            pass
        assert hook_count(unet) > 0, "the inner use must not take the outer's hooks away"
        with pytest.raises(ValueError, match="lack the layers IN01, IN02"), control.inject({}, [0]):
            pass
        with pytest.raises(ValueError, match="cannot be another one's source"), control.inject(None, [-1, 2, 0]):
            pass
        with control.capture(), pytest.raises(RuntimeError, match="already capturing"), control.capture():
            pass


# --- what is captured and injected


def captured(unet, latent, ctx, flag=256, **options):
    with active_control(unet, flag) as control, control.capture(**options) as features:
        call(unet, latent, 281, ctx)
    return features


def assert_same_features(a, b, exactly=True):
    assert list(a) == list(b)
    for name in a:
        for ours, theirs in zip(a[name], b[name], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if exactly else 1e-5)


def test_capture_is_what_the_projections_were_given_once(unet):
    seen = {}

    def keep(name, which):
        return lambda _module, args: seen.__setitem__((name, which), args[0].clone())

    layers = shallow_layers(unet, SIZE, 256)
    handles = [
        getattr(layer.module, which).register_forward_pre_hook(keep(layer.name, which))
        for layer in layers
        for which in ("to_q", "to_k")
    ]
    try:
        features = captured(unet, drawn(2, 4, *SIZE), context(2))
    finally:
        for handle in handles:
            handle.remove()
    assert list(features) == SHALLOW
    for name, (for_q, for_k) in features.items():
        assert torch.equal(for_q, seen[name, "to_q"]) and torch.equal(for_k, seen[name, "to_k"])
        assert for_k is for_q, "one tensor serves both"


def test_what_comes_between_the_two_projections_is_captured_and_injected(unet):
    """As a hypernetwork does: to_k is given another tensor than to_q."""
    layers = shallow_layers(unet, SIZE, 256)
    latent, ctx = drawn(2, 4, *SIZE), context(2)
    handles = [layer.module.to_k.register_forward_pre_hook(lambda _m, args: (0.5 * args[0],)) for layer in layers]
    try:
        features = captured(unet, latent[:1], ctx[:1])
        assert all(torch.equal(for_k, 0.5 * for_q) for for_q, for_k in features.values())
        plain = call(unet, latent[:1].repeat(2, 1, 1, 1), 281, ctx[:1].repeat(2, 1, 1))
        own = inject(unet, latent[:1].repeat(2, 1, 1, 1), ctx[:1].repeat(2, 1, 1), features, [-1, 0])
        torch.testing.assert_close(own, plain, rtol=0, atol=1e-5)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("flag", [64, 256, 1024, 4096])
def test_early_stop_captures_the_same(unet, flag):
    latent, ctx = drawn(2, 4, *SIZE), context(2)
    assert_same_features(captured(unet, latent, ctx, flag), captured(unet, latent, ctx, flag, stop_early=True))


def test_capture_of_some_rows(unet):
    latent, ctx = drawn(3, 4, *SIZE), context(3)
    whole, part = captured(unet, latent, ctx), captured(unet, latent, ctx, rows=slice(1, 3))
    assert_same_features(part, {name: (q[1:], k[1:]) for name, (q, k) in whole.items()})


def test_capture_survives_a_host_that_uses_the_memory_again(unet):
    layer = shallow_layers(unet, SIZE, 64)[0]
    plain = captured(unet, drawn(1, 4, *SIZE), context(1))
    with active_control(unet) as control:
        # after both projections of what they were given
        spoiler = layer.module.to_v.register_forward_hook(lambda _module, args, _output: args[0].mul_(2.0))
        with control.capture() as features:
            call(unet, drawn(1, 4, *SIZE), 281, context(1))
        spoiler.remove()
    assert torch.equal(features["IN01"][0], plain["IN01"][0])


def inject(unet, latent, ctx, features, rows, flag=256):
    with active_control(unet, flag) as control, control.inject(features, rows):
        return call(unet, latent, 281, ctx)


def test_own_features_change_nothing(unet):
    latent, ctx = drawn(2, 4, *SIZE), context(2)
    plain = call(unet, latent, 281, ctx)
    features = captured(unet, latent, ctx)
    assert torch.equal(inject(unet, latent, ctx, features, [0, 1]), plain)
    # a row of its own is a batch of another size, for which the arithmetic may round otherwise
    torch.testing.assert_close(inject(unet, latent, ctx, features, [-1, 1]), plain, rtol=0, atol=1e-5)


def test_rows_that_are_not_named_stay(unet):
    latent, ctx = drawn(3, 4, *SIZE), context(3)
    plain = call(unet, latent, 281, ctx)
    features = captured(unet, drawn(1, 4, *SIZE, seed=5), context(1, seed=6))
    injected = inject(unet, latent, ctx, features, [-1, 0, -1])
    assert torch.equal(injected[0], plain[0]) and torch.equal(injected[2], plain[2])
    assert (injected[1] - plain[1]).abs().max() > 0.01
    assert torch.equal(inject(unet, latent, ctx, features, [-1, -1, -1]), plain)


def test_every_order_of_rows(unet):
    """Row i gets source rows[i], also where targets and sources are not consecutive."""
    latent, ctx = drawn(4, 4, *SIZE), context(4)
    features = captured(unet, drawn(3, 4, *SIZE, seed=5), context(3, seed=6))
    singly = {
        (row, source): inject(unet, latent[row : row + 1], ctx[row : row + 1], features, [source])
        for row in range(4)
        for source in (-1, 0, 1, 2)
    }
    for rows in ([2, 0, 1, 0], [-1, 2, -1, 0], [0, -1, -1, 1], [-1, -1, 0, 1], [1, 1, 1, 1]):
        together = inject(unet, latent, ctx, features, rows)
        for row, source in enumerate(rows):
            torch.testing.assert_close(together[row : row + 1], singly[row, source], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [[-1, 0], [-1, -1, 0], [-1, -1, -1, -1, 0, 1], [-1, -1, 1, 0, -1, 1]])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("with_region", [False, True])
def test_sources_may_run_in_the_same_call(unet, rows, strength, with_region):
    batch = len(rows)
    latent, ctx = drawn(batch, 4, *SIZE), context(batch)
    features = captured(unet, latent[:2], ctx[:2])
    region = (drawn(2, 1, *SIZE, seed=7) > 0).float() if with_region else None
    strengths = {layer.name: strength for layer in shallow_layers(unet, SIZE, 256)}
    with AttentionControl(shallow_layers(unet, SIZE, 256), region) as control:
        with control.inject(features, rows, strengths):
            apart = call(unet, latent, 281, ctx)
        with control.inject(None, rows, strengths):
            beside = call(unet, latent, 281, ctx)
    torch.testing.assert_close(beside, apart, rtol=0, atol=1e-5)
    assert (beside - call(unet, latent, 281, ctx))[-1].abs().max() > 0.01


def test_injection_is_attention_with_the_sources_q_and_k_and_ones_own_v(unet):
    """softmax(Q_src K_src^T / sqrt(d)) V_gen, written out for one layer."""
    layer = shallow_layers(unet, SIZE, 64)[0]
    x, source, heads = drawn(1, 256, 32), drawn(1, 256, 32, seed=1), 4
    with AttentionControl([layer]) as control, control.inject({layer.name: (source, source)}, [0]):
        ours = layer.module(x)
    given = (layer.module.to_q(source), layer.module.to_k(source), layer.module.to_v(x))
    q, k, v = (t.reshape(1, 256, heads, 8).transpose(1, 2) for t in given)
    attended = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(
        ours, layer.module.to_out[0](attended.transpose(1, 2).reshape(1, 256, 32)), rtol=0, atol=1e-5
    )


def test_replaced_rows_own_input_is_not_projected(unet):
    layer = shallow_layers(unet, SIZE, 64)[0]
    given = []
    features = captured(unet, drawn(1, 4, *SIZE), context(1))
    with active_control(unet) as control:
        # put after ours, so that it sees what is left of the batch
        handle = layer.module.to_q.register_forward_pre_hook(lambda _m, args: given.append(args[0]))
        with control.inject(features, [-1, 0]):
            call(unet, drawn(2, 4, *SIZE, seed=5), 281, context(2))
        handle.remove()
    (own, source), theirs = given[0], features[layer.name][0][0]
    assert torch.equal(source, theirs) and not torch.allclose(own, theirs, atol=0.01)


def test_half_precision_features_are_cast(unet):
    features = captured(unet, drawn(1, 4, *SIZE), context(1))
    half = {name: (q.half(), k.half()) for name, (q, k) in features.items()}
    out = inject(unet, drawn(1, 4, *SIZE), context(1), half, [0])
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, call(unet, drawn(1, 4, *SIZE), 281, context(1)), rtol=0, atol=0.05)


def test_other_shapes_are_named(unet):
    features = captured(unet, drawn(1, 4, *SIZE), context(1))
    with pytest.raises(AttentionShapeError, match="IN01 was called with 3 rows, 2 were announced"):
        inject(unet, drawn(3, 4, *SIZE), context(3), features, [-1, 0])
    with pytest.raises(AttentionShapeError, match=r"IN01 has \(384, 32\) here but \(256, 32\).*token merging"):
        inject(unet, drawn(2, 4, 16, 24), context(2), features, [-1, 0])


def test_attention_class_may_be_switched_while_hooks_are_active(unet):
    """The webui assigns another `forward` to the attention CLASS when its optimisation changes."""
    latent, ctx = drawn(2, 4, *SIZE), context(2)
    features = captured(unet, drawn(1, 4, *SIZE, seed=5), context(1, seed=6))
    expected = inject(unet, latent, ctx, features, [-1, 0])
    cls = type(self_attention_layers(unet)[0].module)
    original, calls = cls.forward, []

    def switched(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    with active_control(unet) as control:
        with control.inject(features, [-1, 0]):
            call(unet, latent, 281, ctx)
        cls.forward = switched
        try:
            with control.inject(features, [-1, 0]):
                after = call(unet, latent, 281, ctx)
        finally:
            cls.forward = original
    assert len(calls) == 32 and torch.equal(after, expected)
    assert_clean(unet)


# --- partly: strengths by layer


def inject_partly(unet, latent, ctx, features, rows, strengths):
    with active_control(unet) as control, control.inject(features, rows, strengths):
        return call(unet, latent, 281, ctx)


def test_strength_one_is_replacement_and_strength_zero_no_control(unet):
    latent, ctx = drawn(3, 4, *SIZE), context(3)
    plain, features = call(unet, latent, 281, ctx), captured(unet, drawn(1, 4, *SIZE, seed=5), context(1, seed=6))
    rows = [-1, 0, 0]
    ones, zeros = dict.fromkeys(SHALLOW, 1.0), dict.fromkeys(SHALLOW, 0.0)
    replaced = inject(unet, latent, ctx, features, rows)
    assert torch.equal(inject_partly(unet, latent, ctx, features, rows, ones), replaced)
    assert torch.equal(inject_partly(unet, latent, ctx, features, rows, zeros), plain)
    # a layer at 0 needs no features, and the others' count
    part = {name: features[name] for name in SHALLOW[:2]}
    strengths = zeros | dict.fromkeys(SHALLOW[:2], 1.0)
    some = inject_partly(unet, latent, ctx, part, rows, strengths)
    with AttentionControl(shallow_layers(unet, SIZE, 256)[:2]) as control, control.inject(part, rows):
        assert torch.equal(call(unet, latent, 281, ctx), some)
    assert (some[1:] - plain[1:]).abs().max() > 1e-3 and (some[1:] - replaced[1:]).abs().max() > 1e-3


def test_a_blend_is_between_ones_own_and_the_sources_projections(unet):
    layer = shallow_layers(unet, SIZE, 64)[0]
    x, source = drawn(2, 256, 32), drawn(1, 256, 32, seed=1)
    projections, seen = (layer.module.to_q, layer.module.to_k), {}
    own, theirs = ([projection(given) for projection in projections] for given in (x, source))
    features = {layer.name: (source, source)}
    with AttentionControl([layer]) as control, control.inject(features, [-1, 0], {layer.name: 0.25}):
        handles = [
            projection.register_forward_hook(lambda _m, _a, output, i=i: seen.__setitem__(i, output))
            for i, projection in enumerate(projections)
        ]
        layer.module(x)
        for handle in handles:
            handle.remove()
    for i in (0, 1):
        torch.testing.assert_close(seen[i][0], own[i][0])
        torch.testing.assert_close(seen[i][1], 0.75 * own[i][1] + 0.25 * theirs[i][0])


def test_blending_ones_own_features_changes_nothing(unet):
    latent, ctx = drawn(2, 4, *SIZE), context(2)
    features = captured(unet, latent, ctx)
    found = inject_partly(unet, latent, ctx, features, [0, 1], dict.fromkeys(SHALLOW, 0.3))
    torch.testing.assert_close(found, call(unet, latent, 281, ctx), rtol=0, atol=1e-5)


def test_strengths_are_those_of_one_injection(unet):
    latent, ctx = drawn(1, 4, *SIZE), context(1)
    features = captured(unet, drawn(1, 4, *SIZE, seed=5), context(1, seed=6))
    with active_control(unet) as control:
        with control.inject(features, [0], dict.fromkeys(SHALLOW, 0.0)):
            pass
        with control.inject(features, [0]):
            after = call(unet, latent, 281, ctx)
    assert torch.equal(after, inject(unet, latent, ctx, features, [0]))


def test_a_plan_says_which_layer_is_controlled_how_strongly_when(unet):
    layers = self_attention_layers(unet)
    steps_at = (5, 2, 0, 0).__getitem__
    plan = TacPlan.make(layers, steps_at, blend=0.5, both_halves=True)
    assert [layer.name for layer in plan.layers] == SHALLOW and plan.both_halves
    strengths = [plan.strengths(step) for step in range(6)]
    assert [s["IN01"] for s in strengths] == [0.5] * 5 + [0.0]
    assert [s["IN04"] for s in strengths] == [0.5] * 2 + [0.0] * 4
    assert TacPlan.make(layers, steps_at, blend=0.0).layers == []


# --- the same on both families


def test_families_agree(unets):
    latent, ctx = drawn(2, 4, *SIZE), context(2)
    ours, theirs = (call(unets[f], latent, 281, ctx) for f in FAMILIES)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    features = {f: captured(unets[f], drawn(1, 4, *SIZE, seed=5), context(1, seed=6), 4096) for f in FAMILIES}
    assert_same_features(features["diffusers"], features["ldm"], exactly=False)
    for flag in (64, 256, 1024, 4096):
        results = [inject(unets[f], latent, ctx, features[f], [-1, 0], flag) for f in FAMILIES]
        torch.testing.assert_close(*results, rtol=0, atol=1e-5)
        assert (results[0][1] - ours[1]).abs().max() > 0.01
        # features of one family serve the other: they go by name
        crossed = inject(unets["ldm"], latent, ctx, features["diffusers"], [-1, 0], flag)
        torch.testing.assert_close(crossed, results[1], rtol=0, atol=1e-5)


# --- the part before the first prompt is computed once
