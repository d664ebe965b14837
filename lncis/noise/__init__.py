"""Label noise: corrupted copies of COCO documents, and the manifest that says what was done."""

from lncis.noise.draw import NOISE_MANIFEST as NOISE_MANIFEST
from lncis.noise.draw import Document as Document
from lncis.noise.draw import corrupt as corrupt
from lncis.noise.rates import flipped_loss as flipped_loss
from lncis.noise.rates import matched_rate as matched_rate
from lncis.noise.rates import odds as odds
from lncis.noise.transitions import transition_matrix as transition_matrix
