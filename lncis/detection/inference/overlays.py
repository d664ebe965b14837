"""Pictures of detections: masks, boxes, class names and scores over the image."""

import colorsys
import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from lncis.detection.inference.detections import Detections, decode_masks

SIDE = 640
"""Smaller images are enlarged to a longer side of at least so many pixels, that names can be read."""


def draw(image: Tensor, detections: Detections, names: Sequence[str]) -> Image.Image:
    """Return an image with detections drawn over it.

    `image` is `(3, H, W)` uint8, `names` the class names of the labels 1..K. A class has one colour everywhere.
    """
    times = max(math.ceil(SIDE / max(image.shape[1:])), 1)
    canvas = interpolate(image[None].float(), scale_factor=times)[0].to(torch.uint8)
    if len(detections) == 0:
        return _picture(canvas)
    labels, boxes = detections.labels.tolist(), detections.boxes * times
    colours = [_colour(label) for label in labels]
    masks = interpolate(decode_masks(detections)[None].to(torch.uint8), scale_factor=times)[0].bool()
    canvas = draw_segmentation_masks(canvas, masks, alpha=0.5, colors=colours)
    picture = _picture(draw_bounding_boxes(canvas, boxes, colors=colours, width=2))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(picture.size) / 40)
    for label, score, box, colour in zip(labels, detections.scores.tolist(), boxes.tolist(), colours, strict=True):
        text = f"{names[label - 1]} {score:.2f}"
        _, _, width, height = pen.textbbox((0, 0), text, font=font)
        x, y = min(box[0], picture.width - width), box[1] - height if box[1] >= height else box[1]
        pen.rectangle((x, y, x + width, y + height), fill=colour)
        pen.text((x, y), text, fill="black", font=font)
    return picture


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _colour(label: int) -> tuple[int, int, int]:
    """Return a bright colour, far from those of the labels beside it: hues are a golden section apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.7, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
