"""TrainConfig and its parts: the one schema of a training, in YAML, in Python and over HTTP.

A config is built once, checked once and handed down; nothing changes it. Unknown keys are errors.
The defaults are the recipe for the embedded digits.
"""

import math
from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

# as constants: infinity among the choices of a study would become null in its spec.yaml
STRICT_KEYS = ConfigDict(extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class DigitsData:
    """The embedded data set: real handwritten digits composited on photographs (lncis.datasets.digits)."""

    name: Literal["digits"] = "digits"
    train_scenes: int = Field(default=100, ge=1)
    """Scenes in `train`, whose class labels get the noise."""
    val_scenes: int = Field(default=64, ge=1)
    """Scenes in `val`, as noisy as `train`; selection may look at these."""
    test_scenes: int = Field(default=128, ge=1)
    """Scenes in `test`, clean; reported, never selected on."""
    seed: int = Field(default=0, ge=0)
    """Seed of the composition."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Noise:
    """How class labels are corrupted (Yang et al., section 5.1)."""

    kind: Literal["none", "symmetric", "asymmetric"] = "symmetric"
    """symmetric: to any other class, uniformly; asymmetric: to the class it is easily mistaken for."""
    rate: float = Field(default=0.4, ge=0, le=1)
    """Probability that an annotation is flipped; ignored when kind is none."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw: the same annotations, kind, rate and seed give the same labels."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Model:
    """Which Mask R-CNN, and the size its images are resized to."""

    name: Literal["digits_rcnn", "maskrcnn_resnet50_fpn"] = "digits_rcnn"
    """digits_rcnn: 0.7 M parameters, for 128-pixel scenes; maskrcnn_resnet50_fpn: torchvision's own."""
    min_size: int = Field(default=128, ge=32)
    """Shorter image side after resizing, pixels."""
    max_size: int = Field(default=128, ge=32)
    """Upper bound on the longer image side after resizing, pixels."""

    @model_validator(mode="after")
    def _sizes_in_order(self) -> "Model":
        if self.min_size > self.max_size:
            raise ValueError(f"min_size must be at most max_size ({self.max_size}) but got {self.min_size}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class CrossEntropyLoss:
    """Plain cross entropy in both stages: the baseline."""

    name: Literal["cross_entropy"] = "cross_entropy"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LncisLoss:
    """Cross entropy in stage 1, then a loss chosen by the role of each sample (Eq. 4)."""

    name: Literal["lncis"] = "lncis"
    preset: Literal["paper"] = "paper"
    """paper: the published equations."""
    gamma: float = Field(default=6.0, gt=0)
    """Cross entropy, in nats, above which a foreground sample is isolated; .inf isolates none."""
    A: float = Field(default=-4.0, lt=0, allow_inf_nan=False)
    """What stands for log 0 in the reverse cross entropy (Eq. 5); negative."""


ClassLossConfig = Annotated[CrossEntropyLoss | LncisLoss, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Schedule:
    """Epochs, where stage 2 begins, and what the learning rate does."""

    epochs: int = Field(default=20, ge=1)
    """E, the epochs of the whole training."""
    stage1_epochs: int | None = Field(default=None, ge=0)
    """E1, the epochs before the loss switches; null: half of `epochs`, rounded down (Eq. 3)."""
    lr_drops: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Epochs after which the learning rate is divided by ten; null: once, after 3/4 of `epochs`."""
    warmup_iterations: int = Field(default=0, ge=0)
    """Iterations over which the learning rate rises linearly from a third; 0: none."""
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs between evaluations on `val`; the last epoch is always evaluated, on `test` too."""

    @property
    def switch_epoch(self) -> int:
        """E1 as a number: the first epoch, counted from 0, that trains with the stage-2 loss."""
        return self.epochs // 2 if self.stage1_epochs is None else self.stage1_epochs

    def lr_factor(self, epoch: int) -> float:
        """What the base learning rate is multiplied by in an epoch counted from 0."""
        drops = (math.ceil(0.75 * self.epochs),) if self.lr_drops is None else self.lr_drops
        return 0.1 ** sum(epoch >= drop for drop in drops)

    @model_validator(mode="after")
    def _epochs_in_order(self) -> "Schedule":
        if self.switch_epoch >= self.epochs:
            raise ValueError(f"stage1_epochs must be below epochs ({self.epochs}) but got {self.stage1_epochs}")
        if self.lr_drops and (late := [drop for drop in self.lr_drops if drop >= self.epochs]):
            raise ValueError(f"lr_drops must be below epochs ({self.epochs}) but got {late[0]}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Optimizer:
    """torch.optim's AdamW or SGD."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Base learning rate, for the whole batch whatever the number of workers."""
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD only."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class TrainConfig:
    """Everything that decides what a training computes; nothing about where it runs."""

    dataset: DigitsData = field(default_factory=DigitsData)
    noise: Noise = field(default_factory=Noise)
    model: Model = field(default_factory=Model)
    loss: ClassLossConfig = field(default_factory=LncisLoss)
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: Optimizer = field(default_factory=Optimizer)
    batch_size: int = Field(default=4, ge=1)
    """Images an iteration, over all workers."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; the class loss stays in fp32."""
    seed: int = Field(default=0, ge=0)
    """Seed of initialisation, data order and sampling."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Workers:
    """The Ray Train workers of one training."""

    num_workers: int = Field(default=1, ge=1)
    """Processes that share each batch (DDP)."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs reserved for each worker; also its torch threads, rounded down, at least 1."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs reserved for each worker; 0 trains on the CPU."""
