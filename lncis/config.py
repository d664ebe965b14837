"""TrainConfig and its parts: the one schema of a training, in YAML, in Python and over HTTP.

A config is built once, checked once and handed down; nothing changes it. Unknown keys are errors.
The defaults are the recipe for the embedded digits.
"""

import math
from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

STRICT_KEYS = ConfigDict(extra="forbid", use_attribute_docstrings=True)


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


ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]
"""The name of a category; YAML reads the digit 7 as a number, which is a name here too."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class NoiseMatrix:
    """A law of label noise in full, for `kind: matrix`."""

    classes: tuple[ClassName, ...]
    """Names of all classes of the data, in the order of the rows and of the columns."""
    rows: tuple[tuple[Annotated[float, Field(ge=0, le=1)], ...], ...]
    """`rows[i][j]`: probability that an instance of classes[i] is labelled classes[j]; each row sums to 1."""

    @model_validator(mode="after")
    def _is_stochastic(self) -> "NoiseMatrix":
        size = len(self.classes)
        if len(set(self.classes)) < size:
            raise ValueError("classes must differ but one stands there twice")
        if [len(row) for row in self.rows] != [size] * size:
            raise ValueError(f"rows must be {size} of {size} probabilities, a row and a column for each class")
        for name, row in zip(self.classes, self.rows, strict=True):
            if abs(math.fsum(row) - 1) > 1e-6:
                raise ValueError(f"the row of {name} must sum to 1 but sums to {math.fsum(row):.6g}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Noise:
    """How class labels are corrupted (Yang et al., section 5.1)."""

    kind: Literal["none", "symmetric", "asymmetric", "matrix", "release-compat"] = "symmetric"
    """symmetric: to any other class, uniformly; asymmetric: to a class it is easily mistaken for; matrix: as `matrix`
    says; release-compat: to any class but the last, the same one included, as the authors' scripts draw."""
    rate: float = Field(default=0.4, ge=0, le=1)
    """Probability that an annotation is flipped (release-compat: drawn anew); ignored when kind is none or matrix."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw: the same annotations, kind, rate and seed give the same labels."""
    map_of: Literal["voc", "cityscapes", "coco", "digits"] | None = None
    """asymmetric: whose map; null: the one whose class names are those of the data, or a map of your own."""
    map: dict[ClassName, ClassName] | None = field(default=None, hash=False)
    """asymmetric: a map of your own, from names to the names they are mistaken for; classes without one stay."""
    pair: bool = False
    """asymmetric, on COCO: two members of each super-class swap, drawn from the seed; false: any takes any other."""
    matrix: NoiseMatrix | None = None
    """matrix: the law; null for the other kinds."""

    @model_validator(mode="after")
    def _parts_belong_together(self) -> "Noise":
        if self.kind == "none":
            return self  # whatever stands beside it is switched off
        if (self.kind == "matrix") != (self.matrix is not None):
            raise ValueError(f"matrix must be given with kind: matrix, and only then, but kind is {self.kind}")
        steering = {"map": self.map is not None, "map_of": self.map_of is not None, "pair": self.pair}
        given = [name for name, present in steering.items() if present]
        if given and self.kind != "asymmetric":
            raise ValueError(f"{given[0]} must stand with kind: asymmetric but kind is {self.kind}")
        if len(given) > 1 and (self.map is not None or self.map_of != "coco"):
            raise ValueError(f"{given[0]} and {given[1]} exclude each other; drop one of the two")
        if self.map is not None and not self.map:
            raise ValueError("map must name at least one class; without flips use kind: none")
        if idle := [clean for clean, noisy in (self.map or {}).items() if clean == noisy]:
            raise ValueError(f"map must name another class for {idle[0]} than itself; classes that stay are left out")
        return self


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
