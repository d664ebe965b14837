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
