"""A training as a whole, and the workers that it is given."""

import math
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lncis.config.data import DatasetConfig, DigitsData, NoiseConfig, SymmetricNoise
from lncis.config.loss import ClassLossConfig, LncisLoss
from lncis.config.model import DigitsRCNN, ModelConfig
from lncis.config.strict import STRICT_KEYS, or_auto

_EPOCHS_OR_AUTO = or_auto("a whole number from 0")


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Schedule:
    """Epochs, where stage 2 begins, and what the learning rate does."""

    epochs: int = Field(default=20, ge=1)
    """E, the epochs of the whole training."""
    stage1_epochs: Annotated[Annotated[int, Field(ge=0)] | Literal["auto"] | None, _EPOCHS_OR_AUTO] = None
    """E1, the epochs before the loss switches; null: half of `epochs`, rounded down (Eq. 3); auto: until the loss on
    `val` has settled (lncis.detection.automatic), but no more than half of `epochs` and no learning rate drop."""
    lr_drops: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Epochs after which the learning rate is divided by ten; null: once, after 3/4 of `epochs`, rounded
    up, but before the last epoch; a single one has none."""
    warmup_iterations: int = Field(default=0, ge=0)
    """Iterations over which the learning rate rises linearly from a third; 0: none."""
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs between evaluations on `val`; the last epoch is always evaluated, on `test` too."""

    @property
    def switch_epoch(self) -> int:
        """E1 as a number: the first epoch, counted from 0, that trains with the stage-2 loss; with auto at most."""
        if self.stage1_epochs == "auto":
            return min([self.epochs // 2, *(drop for drop in self._drops if drop > 0)])
        return self.epochs // 2 if self.stage1_epochs is None else self.stage1_epochs

    @property
    def _drops(self) -> tuple[int, ...]:
        return (min(math.ceil(0.75 * self.epochs), self.epochs - 1),) if self.lr_drops is None else self.lr_drops

    def lr_factor(self, epoch: int) -> float:
        """What the base learning rate is multiplied by in an epoch counted from 0."""
        return 0.1 ** sum(epoch >= drop > 0 for drop in self._drops)

    @model_validator(mode="after")
    def _epochs_in_order(self) -> "Schedule":
        if self.switch_epoch >= self.epochs:
            raise ValueError(f"stage1_epochs must be below epochs ({self.epochs}) but got {self.stage1_epochs}")
        if self.lr_drops and (late := [drop for drop in self.lr_drops if drop >= self.epochs]):
            raise ValueError(f"lr_drops must be below epochs ({self.epochs}) but got {late[0]}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class _Optimizer:
    """What both optimizers have."""

    type: str
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Base learning rate, for the whole batch whatever the number of workers."""
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    max_grad_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """L2 norm over all gradients above which they are scaled down to it; null: never."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class AdamWOptimizer(_Optimizer):
    """torch.optim.AdamW."""

    type: Literal["adamw"] = "adamw"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class SGDOptimizer(_Optimizer):
    """torch.optim.SGD."""

    type: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)


OptimizerConfig = Annotated[AdamWOptimizer | SGDOptimizer, Field(discriminator="type")]


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Fold:
    """A part of the training images that a training leaves out: its `val`, whose labels it can judge unseen.

    What the data have as `val` besides is not used; without a file for it, no share of `train` is held out.
    """

    number: int = Field(default=0, ge=0)
    """Which part, from 0."""
    of: int = Field(default=5, ge=2)
    """How many parts there are; each has about the same share of each class."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split into parts."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> "Fold":
        if self.number >= self.of:
            raise ValueError(f"number must be below of ({self.of}) but got {self.number}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class TrainConfig:
    """Everything that decides what a training computes; nothing about where it runs."""

    dataset: DatasetConfig = field(default_factory=DigitsData)
    noise: NoiseConfig = field(default_factory=SymmetricNoise)
    val_labels: Literal["noisy", "oracle"] = "noisy"
    """noisy: `val` is as noisy as `train`; oracle: `val` keeps its clean labels, which nobody has in practice."""
    fold: Fold | None = None
    """The part of `train` that is left out and is `val`, as for `lncis suspects`; null: all of it is trained on."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability that a training image is mirrored left to right; the digits would not be themselves."""
    model: ModelConfig = field(default_factory=DigitsRCNN)
    loss: ClassLossConfig = field(default_factory=LncisLoss)
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: OptimizerConfig = field(default_factory=AdamWOptimizer)
    batch_size: int = Field(default=4, ge=1)
    """Images an iteration, over all workers."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; the class loss stays in fp32."""
    seed: int = Field(default=0, ge=0)
    """Seed of initialisation, data order and sampling."""

    @model_validator(mode="after")
    def _noise_can_be_seen(self) -> "TrainConfig":
        if isinstance(self.loss, LncisLoss) and self.loss.gamma == "auto":
            if self.val_labels == "oracle":
                raise ValueError(
                    "loss.gamma must be a number where val_labels is oracle, as it is set by the noise of val, "
                    "but got auto"
                )
            if not self.loss.stagewise or self.schedule.switch_epoch == 0:
                raise ValueError(
                    "loss.gamma must be a number where there is no stage 1, as it is set by what that has learnt, "
                    "but got auto"
                )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Workers:
    """The Ray Train workers of one training."""

    num_workers: int = Field(default=1, ge=1)
    """Processes that share each batch (DDP)."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs reserved for each worker; also its torch threads, rounded down, at least 1."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs reserved for each worker; 0 trains on the CPU, 0.5 lets two trainings share a GPU."""
    loading_processes: int = Field(default=0, ge=0)
    """Processes beside each worker that read images ahead of it; 0: it reads them itself. Results do not change."""

    @model_validator(mode="after")
    def _gpus_can_be_had(self) -> "Workers":
        if self.gpus_per_worker % 1 == 0 or (self.gpus_per_worker < 1 and self.num_workers == 1):
            return self
        if self.gpus_per_worker > 1:
            raise ValueError(f"gpus_per_worker must be a whole number above 1 but got {self.gpus_per_worker:g}")
        raise ValueError(
            f"gpus_per_worker must be a whole number where num_workers is above 1 (it is {self.num_workers}), as NCCL "
            f"does not let workers of one training share a GPU, but got {self.gpus_per_worker:g}"
        )
