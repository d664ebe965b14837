"""Transition matrices of label noise: which class is given which label, with what probability."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lncis.config import AsymmetricNoise, MatrixNoise, NoiseConfig, NoNoise, ReleaseCompatNoise, SymmetricNoise
from lncis.errors import DataError
from lncis.noise.names import CLASSES, MAPS, NEVER_FLIPPED, SUPER_CLASS_OF

Category = Mapping[str, Any]
"""An entry of a COCO document's `categories`: `id`, `name`, perhaps `supercategory`."""

Confusions = dict[str, list[str]]
"""The names that a class is mistaken for, each as likely as the other; classes without an entry stay."""


def transition_matrix(categories: Sequence[Category], noise: NoiseConfig) -> NDArray[np.float64]:
    """Return `[given_clean, given_noisy]`, `(K, K)`, rows summing to 1, in the order of `categories`.

    A category named background stays as it is and is never drawn. Raises DataError where this noise cannot be applied
    to these classes.
    """
    matrix = np.eye(len(categories))
    if isinstance(noise, NoNoise) or (not isinstance(noise, MatrixNoise) and noise.rate == 0):
        return matrix
    places = [k for k, category in enumerate(categories) if category["name"].strip("_").lower() != "background"]
    matrix[np.ix_(places, places)] = _of_foreground([categories[k] for k in places], noise)
    return matrix


def _of_foreground(
    categories: list[Category], noise: SymmetricNoise | AsymmetricNoise | MatrixNoise | ReleaseCompatNoise
) -> NDArray[np.float64]:
    names = [category["name"] for category in categories]
    if isinstance(noise, MatrixNoise):
        return _in_order_of(names, noise)
    if isinstance(noise, AsymmetricNoise):
        return _along(_confusions(categories, noise), names, noise.rate)
    size, stays = len(names), np.eye(len(names))
    if size < 2:
        raise DataError(f"{noise.type} noise needs at least 2 classes but got {size}; use type: none")
    if isinstance(noise, SymmetricNoise):
        flip = (1 - stays) / (size - 1)
    else:  # release-compat: the scripts draw from all classes but the last, whatever the clean one
        flip = np.full((size, size), 1 / (size - 1))
        flip[:, -1] = 0
    return (1 - noise.rate) * stays + noise.rate * flip


def _in_order_of(names: list[str], given: MatrixNoise) -> NDArray[np.float64]:
    if odd := set(given.classes) - set(names):
        raise DataError(f"noise.classes has classes that the data lack: {_listed(odd, names)}; correct their names")
    if missing := set(names) - set(given.classes):
        near = _listed(missing, given.classes)
        raise DataError(f"noise.classes lacks classes of the data: {near}; add them, and a row for each")
    order = [given.classes.index(name) for name in names]
    matrix = np.array(given.rows, dtype=np.float64)[np.ix_(order, order)]
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


def _along(confusions: Confusions, names: list[str], rate: float) -> NDArray[np.float64]:
    if not confusions:
        raise DataError(
            f"asymmetric noise knows no confusable pair among the classes {_listed(names)}; use type: symmetric"
        )
    matrix, place = np.eye(len(names)), {name: k for k, name in enumerate(names)}
    for clean, noisy in confusions.items():
        matrix[place[clean], place[clean]] = 1 - rate
        matrix[place[clean], [place[name] for name in noisy]] = rate / len(noisy)
    return matrix


def _confusions(categories: list[Category], noise: AsymmetricNoise) -> Confusions:
    """Return what each class is mistaken for: by one's own map, or by the one whose names the classes have."""
    names = [category["name"] for category in categories]
    if noise.map is not None:
        if odd := {*noise.map, *noise.map.values()} - set(names):
            raise DataError(f"noise.map has classes that the data lack: {_listed(odd, names)}; correct their names")
        return {clean: [noisy] for clean, noisy in noise.map.items()}
    chosen = "coco" if noise.pair else noise.map_of
    unknown = {key: set(names) - set(CLASSES[key]) for key in ([chosen] if chosen else CLASSES)}
    fitting = {key: _built_in(key, categories, noise) for key, odd in unknown.items() if not odd}
    if not fitting:
        nearest = min(unknown, key=lambda key: len(unknown[key]))
        among = f", the nearest of {', '.join(unknown)}," if len(unknown) > 1 else ""
        raise DataError(
            f"asymmetric noise goes by class names, and {nearest}{among} lacks "
            f"{_listed(unknown[nearest], CLASSES[nearest])}; correct them, give noise.map, or use type: symmetric"
        )
    first, *others = fitting.values()
    if any(other != first for other in others):
        raise DataError(
            f"the classes {_listed(names)} could be of {' or '.join(fitting)}, which differ in their asymmetric noise; "
            "name the right one in noise.map_of, or give noise.map"
        )
    return first


def _built_in(key: str, categories: list[Category], noise: AsymmetricNoise) -> Confusions:
    if key == "coco":
        return _within_super_classes(categories, noise)
    names = {category["name"] for category in categories}
    return {clean: [noisy] for clean, noisy in MAPS[key].items() if {clean, noisy} <= names}


def _within_super_classes(categories: list[Category], noise: AsymmetricNoise) -> Confusions:
    """Return each class with all others of its super-class, or with the one drawn as its partner.

    Super-classes are the document's own where each class has one ("none" is none), else those of COCO.
    """
    own = all(str(category.get("supercategory") or "none").lower() != "none" for category in categories)
    groups: dict[str, list[str]] = defaultdict(list)
    for category in categories:
        if (name := category["name"]) != NEVER_FLIPPED:
            groups[str(category["supercategory"]) if own else SUPER_CLASS_OF[name]].append(name)
    # sorted: neither the order of the file nor the ids may matter to the draw
    families = [sorted(groups[group]) for group in sorted(groups) if len(groups[group]) > 1]
    if noise.pair:
        # from the seed alone, so that all splits swap the same classes
        rng = np.random.default_rng([noise.seed, *b"pair"])
        families = [[members[k] for k in rng.permutation(len(members))[:2]] for members in families]
    return {name: [other for other in members if other != name] for members in families for name in members}


def _listed(names: Iterable[str], known: Iterable[str] = (), most: int = 10) -> str:
    """Return names in a sentence, each with the nearest of the known ones, if any is near."""
    names = list(names) if isinstance(names, list) else sorted(names)
    near = {name: get_close_matches(name, list(known), n=1, cutoff=0.5) for name in names[:most]}
    shown = [f"{name} (did you mean {hint[0]}?)" if hint else name for name, hint in near.items()]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
