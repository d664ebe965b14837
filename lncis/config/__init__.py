"""TrainConfig and its parts: the one schema of a training, in YAML, in Python and over HTTP.

A config is built once, checked once and handed down; nothing changes it. Unknown keys are errors.
The defaults are the recipe for the embedded digits.
"""

from lncis.config.data import AsymmetricNoise as AsymmetricNoise
from lncis.config.data import CocoData as CocoData
from lncis.config.data import DatasetConfig as DatasetConfig
from lncis.config.data import DigitsData as DigitsData
from lncis.config.data import MatrixNoise as MatrixNoise
from lncis.config.data import NoiseConfig as NoiseConfig
from lncis.config.data import NoNoise as NoNoise
from lncis.config.data import ReleaseCompatNoise as ReleaseCompatNoise
from lncis.config.data import SymmetricNoise as SymmetricNoise
from lncis.config.loss import ActivePassiveLoss as ActivePassiveLoss
from lncis.config.loss import ClassLossConfig as ClassLossConfig
from lncis.config.loss import CrossEntropyLoss as CrossEntropyLoss
from lncis.config.loss import GeneralizedCrossEntropyLoss as GeneralizedCrossEntropyLoss
from lncis.config.loss import JointOptimizationLoss as JointOptimizationLoss
from lncis.config.loss import LabelSmoothingLoss as LabelSmoothingLoss
from lncis.config.loss import LncisLoss as LncisLoss
from lncis.config.loss import ReverseCrossEntropyLoss as ReverseCrossEntropyLoss
from lncis.config.loss import SymmetricCrossEntropyLoss as SymmetricCrossEntropyLoss
from lncis.config.loss import has_stages as has_stages
from lncis.config.loss import loss_in_stage as loss_in_stage
from lncis.config.model import PUBLISHED_WEIGHTS as PUBLISHED_WEIGHTS
from lncis.config.model import DigitsRCNN as DigitsRCNN
from lncis.config.model import MaskRCNNResNet50FPN as MaskRCNNResNet50FPN
from lncis.config.model import ModelConfig as ModelConfig
from lncis.config.strict import STRICT_KEYS as STRICT_KEYS
from lncis.config.strict import or_auto as or_auto
from lncis.config.training import AdamWOptimizer as AdamWOptimizer
from lncis.config.training import Fold as Fold
from lncis.config.training import OptimizerConfig as OptimizerConfig
from lncis.config.training import Schedule as Schedule
from lncis.config.training import SGDOptimizer as SGDOptimizer
from lncis.config.training import TrainConfig as TrainConfig
from lncis.config.training import Workers as Workers
