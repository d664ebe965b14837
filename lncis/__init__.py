"""Instance segmentation from noisy class labels (Yang et al., ECCV 2020), and the studies that tune it."""

__version__ = "0.1.0"
