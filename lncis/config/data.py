"""What is trained on: data sets, and the noise that their labels get."""

import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from lncis.config.strict import STRICT_KEYS


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class DigitsData:
    """The embedded data set: real handwritten digits composited on photographs (lncis.datasets.digits)."""

    type: Literal["digits"] = "digits"
    train_scenes: int = Field(default=100, ge=1)
    """Scenes in `train`, whose class labels get the noise."""
    val_scenes: int = Field(default=64, ge=1)
    """Scenes in `val`, as noisy as `train`; selection may look at these."""
    test_scenes: int = Field(default=128, ge=1)
    """Scenes in `test`, clean; reported, never selected on."""
    signs: int = Field(default=0, ge=0, le=10)
    """Printed signs that are classes after the ten digits."""
    seed: int = Field(default=0, ge=0)
    """Seed of the composition."""


def local_path(path: Path) -> Path:
    """Return the absolute path of one that may begin with ~; ValueError where it is none."""
    if "\0" in str(path):
        raise ValueError(f"must be a path but got {str(path)!r}, which holds a NUL character")
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"must be a path but got {path}: there is no user of that name here") from error


LocalPath = Annotated[Path, AfterValidator(local_path)]
"""Relative to the folder in which the config is read, and absolute from then on: workers run elsewhere."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class CocoData:
    """Your own images and COCO instances files; `lncis data check` says what is wrong with one."""

    type: Literal["coco"] = "coco"
    images: LocalPath
    """Folder that the `file_name`s of the three files are relative to."""
    train: LocalPath
    """COCO JSON; its labels get the noise. Where they are noisy already, set `noise: {type: none}`."""
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
    box_masks: Literal["ignore", "rectangles"] = "ignore"
    """Annotations with a box and no mask. `ignore`: they are not trained on, and detections there count neither way;
    `rectangles`: the box is the mask."""
    train_on_empty_images: bool = False
    """Whether images without an instance are trained on, as all background; else they are left out and counted."""


DatasetConfig = Annotated[DigitsData | CocoData, Field(discriminator="type")]


ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]
"""The name of a category; YAML reads the digit 7 as a number, which is a name here too."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class NoNoise:
    """Labels stay as they are."""

    type: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class _DrawnNoise:
    """What all noise has that is drawn."""

    type: str
    seed: int = Field(default=0, ge=0)
    """Seed of the draw: the same annotations, noise and seed give the same labels."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class _RatedNoise(_DrawnNoise):
    """What noise has that flips each annotation with the same probability."""

    rate: float = Field(default=0.4, ge=0, le=1)
    """Probability that an annotation is drawn anew; with asymmetric noise those of classes with a mapping."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class _CountedNoise(_RatedNoise):
    """What noise has whose flips can be counted out."""

    exact: bool = False
    """Flip exactly `rate` of the labels of a split that can flip, rounded to a whole number, and draw which; false:
    each by itself, so that the realised rate is off by chance: of 250 labels at 40 % by 3 points."""


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class SymmetricNoise(_CountedNoise):
    """A flipped label becomes any other class, each as likely (Yang et al., section 5.1)."""

    type: Literal["symmetric"] = "symmetric"


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class AsymmetricNoise(_CountedNoise):
    """A flipped label becomes a class that it is easily mistaken for; classes without one stay (section 5.1).

    At most one of `map_of`, `map` and `pair` says which; without them it is the built-in map whose class names the data
    have.
    """

    type: Literal["asymmetric"] = "asymmetric"
    map_of: Literal["voc", "cityscapes", "coco", "digits"] | None = None
    """A built-in map; null: the one that fits."""
    map: dict[ClassName, ClassName] | None = field(default=None, hash=False)
    """Your own map, from class names to the names they are mistaken for; classes without an entry stay."""
    pair: bool = False
    """COCO: two members of each super-class swap, drawn from the seed; false: any member becomes any other."""

    @model_validator(mode="after")
    def _one_map(self) -> "AsymmetricNoise":
        given = {"map": self.map is not None, "map_of": self.map_of is not None, "pair": self.pair}
        names = [name for name, present in given.items() if present]
        if len(names) > 1 and (self.map is not None or self.map_of != "coco"):
            raise ValueError(f"{names[0]} and {names[1]} exclude each other; drop one of the two")
        if self.map is not None and not self.map:
            raise ValueError("map must name at least one class; without flips use type: none")
        if idle := [clean for clean, noisy in (self.map or {}).items() if clean == noisy]:
            raise ValueError(f"map must name another class for {idle[0]} than itself; classes that stay are left out")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class MatrixNoise(_DrawnNoise):
    """Labels are drawn from a transition matrix of your own."""

    type: Literal["matrix"] = "matrix"
    classes: tuple[ClassName, ...]
    """Names of all classes of the data, in the order of the rows and of the columns."""
    rows: tuple[tuple[Annotated[float, Field(ge=0, le=1)], ...], ...]
    """`rows[i][j]`: probability that an instance of classes[i] is labelled classes[j]; each row sums to 1."""

    @model_validator(mode="after")
    def _is_stochastic(self) -> "MatrixNoise":
        size = len(self.classes)
        if len(set(self.classes)) < size:
            raise ValueError("classes must differ but one is listed twice")
        if [len(row) for row in self.rows] != [size] * size:
            raise ValueError(f"rows must be {size} of {size} probabilities, a row and a column for each class")
        for name, row in zip(self.classes, self.rows, strict=True):
            if abs(math.fsum(row) - 1) > 1e-6:
                raise ValueError(f"the row of {name} must sum to 1 but sums to {math.fsum(row):.6g}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT_KEYS)
class ReleaseCompatNoise(_RatedNoise):
    """A label drawn anew becomes any class but the last, the same one included, as the authors' scripts draw."""

    type: Literal["release-compat"] = "release-compat"


NoiseConfig = Annotated[
    NoNoise | SymmetricNoise | AsymmetricNoise | MatrixNoise | ReleaseCompatNoise, Field(discriminator="type")
]
"""How the class labels of the training and validation splits are corrupted."""
