"""How near the presets, and coarser or finer grids, come to a fine grid's result: see benchmarks/translate.py."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import torch
from models import benchmark_host
from torch import Tensor

from lib_negtrans.core.inversion import Trajectory, inversion_steps, planned_iterations
from lib_negtrans.core.schedule import Schedule
from lib_negtrans.core.translate import Source, translation_steps
from lib_negtrans.evaluation.crops import spread
from lib_negtrans.models.standalone import StandaloneHost
from lib_negtrans.pictures.images import fit_within, flatten_alpha, load_picture, pad_to_multiple
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.steps import finish
from lib_negtrans.translation.params import TranslationParams, translation_preset
from lib_negtrans.translation.pipeline import translate_latent

RENDERS = Path(__file__).resolve().parents[1] / "assets" / "renders" / "eval"
SIZE = (256, 256)
# steps 1, 11, .., 281: the published grid's top, half its spacing; iterated until nothing moves
FINE = {"solver": "ddim", "steps": 100, "strength": 0.295, "fixed_point": 5, "step_share": 1.0}
PRESETS: dict[str, dict] = {
    "fashionr2r": {"preset": "fashionr2r"},
    "plain inversion": {"solver": "ddim", "fixed_point": 0, "step_share": 1.0},
    "faithful": {"preset": "faithful"},
    "default": {},
    "fast": {"preset": "fast"},
}
CURVE: dict[str, dict] = {
    **{f"ddim, K = {k}": {"solver": "ddim", "fixed_point": k, "step_share": 1.0} for k in (0, 1, 2, 3)},
    **{
        f"ddim, K = {k}, {count} steps": {"solver": "ddim", "fixed_point": k, "step_share": count / 15}
        for count in (12, 10, 8, 6, 5)
        for k in (0, 1)
    },
    **{
        f"difference, {count} steps": {"solver": "difference", "step_share": count / 15}
        for count in (15, 12, 10, 9, 8, 7, 6, 5, 4)
    },
}


@dataclass(frozen=True)
class Fidelity:
    """What one configuration gave on one render: forwards, dB to the fine grid and of the round trip, paths' RMSE.

    trajectory: of the source latents to the fine grid's; inverse: to the exact inverse of the sampler on the same grid.
    """

    forwards: float
    fine: float
    round_trip: float
    trajectory: float
    inverse: float


def decibels(error: Tensor, latent: Tensor) -> float:
    """20 log10(6 std / RMSE); infinite for no error."""
    return float(20 * torch.log10(6 * latent.std() / error.square().mean().sqrt()))


def trajectory_error(found: Trajectory, fine: Trajectory) -> float:
    """RMSE of the source latents at the timesteps that both grids have."""
    at = dict(zip(fine.schedule.timesteps, fine.latents[1:], strict=True))
    pairs = zip(found.schedule.timesteps, found.latents[1:], strict=True)
    errors = [(latent - at[timestep]).square().mean() for timestep, latent in pairs if timestep in at]
    return float(torch.stack(errors).mean().sqrt())


@torch.no_grad()
def inverted(host: StandaloneHost, latent: Tensor, schedule: Schedule, **options) -> tuple[Trajectory, Tensor]:
    """An inversion without a prompt, options as in `inversion_steps`, and the latent that sampling makes of its end."""
    context = host.encode_prompts([""])

    def predict(z: Tensor, timestep: int) -> Tensor:
        return host.predict_noise(z, timestep, context)

    def guided(z: Tensor, position: int, _source: Source) -> Tensor:
        return predict(z, schedule.timestep(position))

    trajectory = finish(inversion_steps(latent, schedule, predict, **options))
    return trajectory, finish(translation_steps(trajectory.latents[-1], schedule, guided))


def exact_inverse(host: StandaloneHost, latent: Tensor, schedule: Schedule) -> Trajectory:
    """The trajectory that DDIM sampling on this grid goes back along, to about 1e-4 of the latents' deviation."""
    return inverted(host, latent, schedule, fixed_point=5)[0]


def measure(
    host: StandaloneHost, latent: Tensor, fine: tuple[Tensor, Trajectory], negative: str, values: dict
) -> Fidelity:
    """One configuration, in fields of `TranslationParams` and a preset, on one latent."""
    options = dict(values)
    preset = options.pop("preset", "default")
    params = translation_preset(preset, negative_prompt=negative, **options)
    result, trajectory, forwards = finish(translate_latent(host, latent, params))
    # the published order has no round trip of its own: its inversion's end, sampled without control
    alone = translation_preset(preset, **options | {"cfg_scale": 1.0, "tac_ratio": 0.0})
    back = finish(translate_latent(host, latent, alone))[0]
    return Fidelity(
        forwards.total, decibels(result - fine[0], latent), decibels(back - latent, latent),
        trajectory_error(trajectory, fine[1]),
        trajectory_error(trajectory, exact_inverse(host, latent, trajectory.schedule)),
    )  # fmt: skip


def iteration_table(host: StandaloneHost, latents: list[Tensor]) -> None:
    """Print what iterations are worth at every step, and where they are needed, on all steps of the published grid."""
    schedule = Schedule.from_strength(host.alphas_cumprod, 50, 0.3, host.prediction_type)
    plans = {f"{k} at every step": [k] * len(schedule) for k in (0, 1, 2)}
    plans |= {f"where needed, K = {k}": planned_iterations(schedule, k) for k in (1, 2)}
    exact = [exact_inverse(host, latent, schedule) for latent in latents]
    print("\n| iterations | inversion's forwards | round trip, dB | path to exact inverse |")
    print("|---|---:|---:|---:|", flush=True)
    for name, plan in plans.items():
        rows = []
        for latent, wanted in zip(latents, exact, strict=True):
            found, back = inverted(host, latent, schedule, iterations=plan, fixed_point=max(plan))
            rows.append((decibels(back - latent, latent), trajectory_error(found, wanted)))
        round_trip, path = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
        print(f"| {name} | {len(plan) + sum(plan)} | {round_trip:.1f} | {path:.4f} |", flush=True)


def fidelity_table(model: str | None, device: str | None, count: int, threads: int, negative: str, curve: bool) -> None:
    """Print the mean over `count` held-out renders for the presets, or for the whole curve."""
    torch.set_num_threads(threads)
    host = benchmark_host(model, device)
    files = spread(image_files(RENDERS), count)
    latents = []
    for path in files:
        image = pad_to_multiple(fit_within(flatten_alpha(load_picture(path)), SIZE)[None])
        latents.append(host.encode_image(image.to(host.device)))

    @cache
    def fine(limit: float) -> list[tuple[Tensor, Trajectory]]:
        params = TranslationParams(negative_prompt=negative, guidance_limit=limit, **FINE)
        return [finish(translate_latent(host, latent, params))[:2] for latent in latents]

    print(f"{len(files)} renders of at most {SIZE[0]} px, {host.checkpoint_name}, negative prompt {negative!r}\n")
    print("| configuration | forwards | dB to the fine grid | round trip, dB | path to fine grid | to exact inverse |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for name, values in (CURVE if curve else PRESETS).items():
        limit = translation_preset(values.get("preset", "default")).guidance_limit
        found = [measure(host, z, f, negative, values) for z, f in zip(latents, fine(limit), strict=True)]
        rows = torch.tensor([astuple(f) for f in found], dtype=torch.float64)
        forwards, near, back, path, inverse = rows.mean(0).tolist()
        exact = "exact" if back == float("inf") else f"{back:.1f}"
        print(f"| {name} | {forwards:.0f} | {near:.1f} | {exact} | {path:.4f} | {inverse:.4f} |", flush=True)
    if curve:
        iteration_table(host, latents)
