"""What differs between the tabs that train: which kinds they offer, their words, and how their options are grouped."""

from __future__ import annotations

from dataclasses import dataclass

from lib_negtrans.options import Option
from lib_negtrans.training.kinds import KINDS

from .components import PHOTOS_TAB_ID, TAB_ID

# every option of every kind is in one of them
GROUPS: dict[str, tuple[str, ...]] = {
    "Data": (
        "aspect", "pattern", "background", "instance_prompt", "folder_prompt", "template", "caption_dropout",
        "shuffle_tags", "tag_dropout", "keep_tags", "latent_sampling", "latent_cache", "flip", "alpha_weight",
        "outside_weight",
    ),
    "What is trained": (
        "vectors", "init_text", "rank", "alpha", "conv_rank", "layers", "text_encoder", "text_encoder_rate", "strength",
        "min_timestep", "max_timestep", "objective", "photo_weight", "photo_guidance",
    ),
    "Optimization": (
        "lr", "batch_size", "accumulation", "scheduler", "warmup", "restarts", "power", "optimizer", "weight_decay",
        "norm_decay", "clip_grad_norm", "min_snr_gamma", "huber", "precision", "gradient_checkpointing", "seed",
    ),
    "What is preserved": (
        "prior", "prior_weight", "class_prompt", "class_count", "class_steps", "class_cfg_scale",
        "class_negative_prompt", "class_seed",
    ),
    "Judging": ("validate_every", "holdout", "patience", "preview_every", "sample_prompts"),
    "Saving": ("result", "ema", "ema_on_cpu", "save_every", "keep", "file_precision", "licence"),
}  # fmt: skip


@dataclass(frozen=True)
class FolderTexts:
    """Labels and hints of the folders: what is learnt, pictures of the other kind, and what is measured on."""

    learnt: str
    other: str
    other_hint: str
    measured: str
    measured_hint: str
    other_measured: str
    other_measured_hint: str
    preview: str


@dataclass(frozen=True)
class TrainTab:
    """One tab. tab: what its elements' ids begin with; basic: the options that are above the folded groups.

    kinds: names in `training.kinds.KINDS`, the first one chosen at first; other: what a request calls the folder with
    pictures of the other kind.
    """

    tab: str
    title: str
    kinds: tuple[str, ...]
    basic: tuple[str, ...]
    name_example: str
    name_hint: str
    overwrite: str
    previews: str
    other: str
    folders: FolderTexts

    @property
    def options(self) -> dict[str, Option]:
        """Those of all its kinds, by name."""
        found: dict[str, Option] = {}
        for kind in self.kinds:
            found = KINDS[kind].options.options() | found
        return found

    def groups(self) -> dict[str, list[str]]:
        """Label -> options of the tab that are folded."""
        options = self.options
        named = {
            label: [name for name in names if name in options and name not in self.basic]
            for label, names in GROUPS.items()
        }
        return {label: names for label, names in named.items() if names}

    def applies(self, name: str, kind: str) -> bool:
        """Whether a kind has this option."""
        return name in KINDS[kind].options.options()


RENDERS_TAB = TrainTab(
    TAB_ID, "Train Negative Embedding", ("negative",), ("steps", "lr", "size", "vectors", "init_text", "strength"),
    "neg-render",
    "The file name, and the trigger word in prompts. Use only a-z, 0-9, - and _. If it is empty, a free name is taken.",
    "Overwrite an embedding or run of this name", "Previews: the render translated with the vectors so far", "photos",
    FolderTexts(
        "Folder with renders", "Folder with photos, if there is one",
        "Real photos of similar garments. Validation and the objective contrastive use them.",
        "Folder with renders to measure on", "For validation; when it is empty, some of the renders are held out.",
        "Folder with photos to measure on", "For validation; when it is empty, the photos above are used.",
        "Render for the previews (if none: the first one)",
    ),
)  # fmt: skip
PHOTOS_TAB = TrainTab(
    PHOTOS_TAB_ID, "Finetune on Photos", ("lora", "full"), ("steps", "lr", "size", "rank", "instance_prompt", "prior"),
    "photo-look", "The name of the file. Use only a-z, 0-9, - and _. If it is empty, a free name is taken.",
    "Overwrite a file or run of this name",
    "Previews: pictures of the sample prompts, and the render translated with the weights so far", "renders",
    FolderTexts(
        "Folder with photos", "Folder with renders, if there is one",
        'Renders of similar garments. They are used for validation, for previews, and by prior preservation "base".',
        "Folder with photos to measure on", "For validation; when it is empty, some of the photos are held out.",
        "Folder with renders to measure on", "For validation; when it is empty, the renders above are used.",
        "Render for the previews (if none: the first of the renders)",
    ),
)  # fmt: skip
