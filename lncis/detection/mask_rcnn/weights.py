"""Pretrained weights: where they lie, how they get there, and what of them fits a model.

Those of letters come with lncis, others from torchvision. Nothing is fetched in passing: `download` alone goes to the
network.
"""

import logging
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, WeightsEnum
from torchvision.models.detection import MaskRCNN, MaskRCNN_ResNet50_FPN_Weights

from lncis import files
from lncis.errors import CheckpointError, ConfigError

PUBLISHED: dict[str, WeightsEnum] = {
    "imagenet": ResNet50_Weights.IMAGENET1K_V1,
    "coco": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
}
"""torchvision's weights by the name that a config gives them."""

LETTERS = Path(__file__).with_name("letters-d62238a1.pt")
"""The weights `letters`, which come with lncis (`pretraining` beside it makes them); the name ends with the first
figures of their SHA-256, so every stage's key, a digest of this text too, changes with them."""

CLASS_SPECIFIC = (
    "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred",
    "roi_heads.mask_predictor.mask_fcn_logits",
)
"""The layers whose size follows from the number of classes."""

log = logging.getLogger(__name__)


def find(weights: str) -> Path:
    """Return the file of `weights`, a name or a path; ConfigError says how to get one that is missing."""
    if weights == "letters":
        if not LETTERS.is_file():
            raise ConfigError("model.weights", [f"letters needs {LETTERS}, which is not there; install lncis anew"])
        return LETTERS
    if weights not in PUBLISHED:
        if not Path(weights).is_file():
            remedy = f"name a file, or one of none, letters, {', '.join(PUBLISHED)}"
            raise ConfigError("model.weights", [f"there is no file {weights}; {remedy}"])
        return Path(weights)
    path, published = _place(weights), PUBLISHED[weights]
    if not path.is_file():
        remedy = f"`lncis weights {weights}` fetches it, or copy it there from {published.url} ({published})"
        raise ConfigError("model.weights", [f"{weights} needs {path}, which is not there; {remedy}"])
    return path


def download(name: str) -> Path:
    """Return the file of published weights; if it is not in torch's hub folder yet, fetch it, whole or not at all.

    Raises CheckpointError where it cannot be fetched, or is not what was published.
    """
    path, url = _place(name), PUBLISHED[name].url
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=_promised_digest(path))
        except (OSError, URLError, RuntimeError) as error:
            raise CheckpointError(f"{url} cannot be fetched: {error}; copy it to {path} by other means") from error
    return path


def load(model: MaskRCNN, weights: str) -> set[str]:
    """Load `weights` into a model, and return which of `backbone` (with its FPN) and `rpn` they held.

    They are those of a whole Mask R-CNN, or of a ResNet. Layers that are there for another number of classes keep their
    initial values, and a warning names them; those of `letters` hold no such layers. Raises ConfigError where the file
    is missing, CheckpointError where it is damaged or of another model.
    """
    path = find(weights)
    state = _read(path, _promised_digest(path) if weights in ("letters", *PUBLISHED) else "")
    target: nn.Module = model
    whole = "conv1.weight" not in state
    if weights == "letters":
        own = model.state_dict()
        state = {key: own[key] for key in own if key.rpartition(".")[0] in CLASS_SPECIFIC} | state
    elif whole:
        state = _fitted(state, model, path)
    else:
        target = model.backbone.body
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} holds the weights of another model; {reason:.300}") from error
    return {"backbone", "rpn"} if whole else set()


def _fitted(state: dict[str, Tensor], model: MaskRCNN, path: Path) -> dict[str, Tensor]:
    """Return `state` with the model's own values in the class-specific layers of another shape."""
    own, fitted = model.state_dict(), dict(state)
    for layer in CLASS_SPECIFIC:
        keys = [f"{layer}.weight", f"{layer}.bias"]
        if any(key in state and key in own and state[key].shape != own[key].shape for key in keys):
            fitted |= {key: own[key] for key in keys}
            had, has = len(state[keys[1]]), len(own[keys[1]])
            log.warning("%s: %s begins untrained, for %d outputs where the file has %d", path.name, layer, has, had)
    return fitted


def _read(path: Path, digest: str) -> dict[str, Tensor]:
    found = files.digest(path)
    if not found.startswith(digest):
        remedy = "install lncis anew" if path == LETTERS else "delete it"
        raise CheckpointError(f"{path} is damaged: its SHA-256 begins with {found[:8]}, not {digest}; {remedy}")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state)  # of an lncis checkpoint, or of torchvision's reference training
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("not a state dict")
    except Exception as error:  # torch raises a different type for each way a file can be damaged
        raise CheckpointError(f"{path} is not a file of weights ({type(error).__name__}); name another") from error
    return state


def _place(name: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(PUBLISHED[name].url).path).name


def _promised_digest(path: Path) -> str:
    """Return the first figures of the SHA-256 of a published file, which its name ends with."""
    return path.stem.rpartition("-")[2]
