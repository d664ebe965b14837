"""The metric keys that trainings report; the same in Tune, MLflow, tables and the API."""

Record = dict[str, float]
"""What one epoch yielded: metric key -> value. Always there: `epoch` (finished epochs, from 1), `seconds`, `lr`."""

AP_FIGURES = ("segm_AP", "segm_AP50", "segm_AP75", "bbox_AP", "segm_AP_agnostic")
"""COCO averages in percent: masks at IoU 0.50:0.95, 0.50 and 0.75; boxes; masks with the classes ignored,
after suppression across classes."""

VAL_METRICS = tuple(f"val/{figure}" for figure in AP_FIGURES)
"""On held-out scenes as noisy as the training set: what selection may look at."""

TEST_METRICS = tuple(f"test/{figure}" for figure in AP_FIGURES)
"""On clean scenes, after the last epoch: reported, never selected on."""

ROLE_METRICS = (
    "roles/samples",
    "roles/negative",
    "roles/pseudo_negative",
    "roles/potential_noisy",
    "roles/other",
)
"""Samples that the box head was trained on in the epoch, and the percentage of each role (NEG, PSN, PON, OS).

Roles are assigned at the loss's gamma, and at 6 nats under a loss that has none, as in stage 1. Not every loss uses
them: `train/isolated` is the percentage of foreground samples that it left out.
"""

AUTO_METRICS = ("auto/gamma", "auto/noise_rate", "auto/stage1_epochs")
"""What a training has set itself, in each epoch of stage 2.

Gamma in nats, the percentage of wrong labels that it was set by (`loss.gamma: auto`), E1 (`stage1_epochs: auto`).
"""

VAL_LOSS = "val/class_loss"
"""Mean cross entropy of the annotations of `val` at their own boxes, nats; in stage 1 of `stage1_epochs: auto`."""

FLIP_METRICS = (
    "roles/clean_above_gamma",
    "roles/flipped_above_gamma",
    "roles/isolation_precision",
    "roles/isolation_recall",
)
"""Percentages of foreground samples whose clean labels are known; absent where there are no such samples.

Of the samples with a clean and with a flipped label, those with a cross entropy above gamma: after stage 1 the paper
has 2.31 and 88.5 (Figure 5). Then of PON those with a flipped label, and of the flipped ones those in PON.
"""
