"""TrainConfig and its parts: the one schema of a training, in YAML, in Python and over HTTP.

A config is built once, checked once and handed down; nothing changes it. Unknown keys are errors.
The defaults are the recipe for the embedded digits.
"""

import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
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


LocalPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""Relative to the folder in which the config is read, and absolute from then on: workers run elsewhere."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class CocoData:
    """Your own images and COCO instances files; `lncis data check` says what is wrong with one."""

    name: Literal["coco"] = "coco"
    images: LocalPath
    """Folder that the `file_name`s of the three files are relative to."""
    train: LocalPath
    """COCO JSON; its labels get the noise. Where they are noisy already, set `noise: {kind: none}`."""
    val: LocalPath | None = None
    """COCO JSON of the validation split, whose labels get the noise too; null: held out of `train`."""
    test: LocalPath
    """COCO JSON with clean labels; reported, never selected on."""
    val_images: LocalPath | None = None
    """Folder of the images of `val`; null: `images`."""
    test_images: LocalPath | None = None
    """Folder of the images of `test`; null: `images`."""
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the images of `train` that is held out where `val` is null; at least one image."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the draw of those images."""
    train_on_empty_images: bool = False
    """Whether images without an instance are trained on, as all background; else they are left out and counted."""


DatasetConfig = Annotated[DigitsData | CocoData, Field(discriminator="name")]


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


PUBLISHED_WEIGHTS = ("none", "imagenet", "coco")


def _absolute_file(weights: str) -> str:
    return weights if weights in PUBLISHED_WEIGHTS else str(Path(weights).expanduser().absolute())


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class Model:
    """Which Mask R-CNN, what it starts from, and the size its images are resized to; the defaults are torchvision's."""

    name: Literal["digits_rcnn", "maskrcnn_resnet50_fpn"] = "digits_rcnn"
    """digits_rcnn: 0.7 M parameters, for 128-pixel scenes; maskrcnn_resnet50_fpn: torchvision's own."""
    min_size: int = Field(default=128, ge=32)
    """Shorter image side after resizing, pixels."""
    other_train_sizes: tuple[Annotated[int, Field(ge=32)], ...] = ()
    """Further shorter sides, pixels: in training, one of these or `min_size` is drawn for each image."""
    max_size: int = Field(default=128, ge=32)
    """Upper bound on the longer image side after resizing, pixels."""
    weights: Annotated[str, AfterValidator(_absolute_file)] = "none"
    """What training starts from. none: random; imagenet, coco: torchvision's, which must be on this machine already
    (`lncis weights`); else a file with a state dict of this model or of its backbone, or an lncis checkpoint."""
    trainable_layers: int | None = Field(default=None, ge=0, le=5)
    """Stages of the ResNet that train, from the last: 3 freezes stem and layer1; null: 3 with weights, 5 without."""
    batch_norm: Literal["trained", "frozen", "frozen_statistics"] | None = None
    """trained: statistics of the batch; frozen: constants; frozen_statistics: running statistics are constants, scale
    and shift train; null: frozen with weights, trained without."""
    class_agnostic_boxes: bool = False
    """One box regression for all foreground classes in the place of one for each."""
    class_agnostic_masks: bool = False
    """One mask for all foreground classes in the place of one for each."""
    box_beta: float = Field(default=1 / 9, gt=0, allow_inf_nan=False)
    """Where the box head's smooth L1 loss turns from square to linear, in encoded box units."""
    class_init_std: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Standard deviation of the box head's first class weights, biases 0; null: torch's uniform weights and biases."""
    box_init_std: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Standard deviation of the box head's first box weights, biases 0; null: torch's uniform weights and biases."""

    @model_validator(mode="after")
    def _sizes_in_order(self) -> "Model":
        for name, sizes in (("min_size", (self.min_size,)), ("other_train_sizes", self.other_train_sizes)):
            if max(sizes, default=0) > self.max_size:
                raise ValueError(f"{name} must be at most max_size ({self.max_size}) but got {max(sizes)}")
        return self

    @model_validator(mode="after")
    def _has_what_is_set(self) -> "Model":
        if self.name == "digits_rcnn":
            if self.weights in ("imagenet", "coco"):
                raise ValueError(f"weights must be none or a file with name digits_rcnn but got {self.weights!r}")
            for name in ("trainable_layers", "batch_norm"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} must be null with name digits_rcnn, which has no such layers")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class CrossEntropyLoss:
    """Plain cross entropy in both stages: the baseline."""

    name: Literal["cross_entropy"] = "cross_entropy"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LabelSmoothingLoss:
    """Cross entropy with labels that are a little unsure (LSR), in both stages."""

    name: Literal["label_smoothing"] = "label_smoothing"
    epsilon: float = Field(default=0.1, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes, background too."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class GeneralizedCrossEntropyLoss:
    """Between cross entropy (q -> 0) and mean absolute error (q = 1) (GCE), in both stages."""

    name: Literal["generalized_cross_entropy"] = "generalized_cross_entropy"
    q: float = Field(default=0.3, gt=0, le=1)
    """How little samples of small probability count."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class ReverseCrossEntropyLoss:
    """Reverse cross entropy (RCE, Eq. 5) for all samples, in both stages."""

    name: Literal["reverse_cross_entropy"] = "reverse_cross_entropy"
    A: float = Field(default=-4.0, lt=0, allow_inf_nan=False)
    """What stands for log 0; negative."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class SymmetricCrossEntropyLoss:
    """Cross entropy and reverse cross entropy together (SCE), in both stages."""

    name: Literal["symmetric_cross_entropy"] = "symmetric_cross_entropy"
    alpha: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of cross entropy."""
    beta: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Weight of reverse cross entropy."""
    A: float = Field(default=-4.0, lt=0, allow_inf_nan=False)
    """What stands for log 0 in reverse cross entropy; negative."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class JointOptimizationLoss:
    """The loss of joint optimization (JOL) on labels that stay as they are, in both stages."""

    name: Literal["joint_optimization"] = "joint_optimization"
    alpha: float = Field(default=0.8, ge=0, allow_inf_nan=False)
    """Weight of the entropy of each prediction, which makes them sure."""
    beta: float = Field(default=1.2, ge=0, allow_inf_nan=False)
    """Weight of the divergence of the mean prediction from a uniform one, which keeps classes from dying out."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class ActivePassiveLoss:
    """Normalized and reverse cross entropy together (NCE+RCE), in both stages.

    The weights are those of its authors for ten classes (Ma et al., ICML 2020, CIFAR-10), as is ln 1e-4 for log 0.
    """

    name: Literal["active_passive"] = "active_passive"
    alpha: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of normalized cross entropy."""
    beta: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of reverse cross entropy."""
    A: float = Field(default=math.log(1e-4), lt=0, allow_inf_nan=False)
    """What stands for log 0 in reverse cross entropy; negative."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class LncisLoss:
    """Cross entropy in stage 1, then a loss chosen by the role of each sample (Eq. 4).

    The four switches are the rows of Table 4; what one of them takes from its role gets reverse cross entropy.
    """

    name: Literal["lncis"] = "lncis"
    preset: Literal["paper", "release"] = "paper"
    """paper: the published equations; release: the published code, with clamps, another A and no isolation."""
    gamma: float = Field(default=6.0, gt=0)
    """Cross entropy, in nats, above which a foreground sample is isolated; .inf isolates none."""
    A: float | None = Field(default=None, lt=0, allow_inf_nan=False)
    """What stands for log 0 in the reverse cross entropy (Eq. 5); negative; null: -4 (paper) or ln 1e-4 (release)."""
    stagewise: bool = True
    """ST: cross entropy in stage 1; false: stage 2 from the first epoch."""
    negatives: bool = True
    """N: cross entropy for background samples."""
    pseudo_negatives: bool = True
    """PSN: cross entropy for foreground samples called background."""
    isolation: bool | None = None
    """PON: no loss for foreground samples called foreground above gamma; null: true (paper) or false (release)."""

    @property
    def log_0(self) -> float:
        """A as a number."""
        return self.A if self.A is not None else -4.0 if self.preset == "paper" else math.log(1e-4)

    @property
    def isolates(self) -> bool:
        """Whether samples above gamma are isolated."""
        return self.preset == "paper" if self.isolation is None else self.isolation


ClassLossConfig = Annotated[
    CrossEntropyLoss
    | LabelSmoothingLoss
    | GeneralizedCrossEntropyLoss
    | ReverseCrossEntropyLoss
    | SymmetricCrossEntropyLoss
    | JointOptimizationLoss
    | ActivePassiveLoss
    | LncisLoss,
    Field(discriminator="name"),
]


def loss_in_stage(loss: ClassLossConfig, stage: Literal[1, 2]) -> ClassLossConfig:
    """Return the loss that a training uses in a stage: all keep theirs but LNCIS, whose stage 1 is cross entropy."""
    return CrossEntropyLoss() if stage == 1 and isinstance(loss, LncisLoss) and loss.stagewise else loss


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
    max_grad_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """L2 norm over all gradients above which they are scaled down to it; null: never."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class TrainConfig:
    """Everything that decides what a training computes; nothing about where it runs."""

    dataset: DatasetConfig = field(default_factory=DigitsData)
    noise: Noise = field(default_factory=Noise)
    val_labels: Literal["noisy", "oracle"] = "noisy"
    """noisy: `val` is as noisy as `train`; oracle: `val` keeps its clean labels, which nobody has in practice."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability that a training image is mirrored left to right; the digits would not be themselves."""
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
    loading_processes: int = Field(default=0, ge=0)
    """Processes beside each worker that read images ahead of it; 0: it reads them itself. Results do not change."""
