"""The metric keys that trainings report; the same in Tune, MLflow, tables and the API."""

Record = dict[str, float]
"""What one epoch yielded: metric key -> value. Always there: `epoch` (finished epochs, from 1), `seconds`, `lr`."""

AP_FIGURES = ("segm_AP", "segm_AP50", "segm_AP75", "bbox_AP", "segm_AP_agnostic")
"""COCO averages in percent: masks at IoU 0.50:0.95, 0.50 and 0.75; boxes; masks with the classes ignored."""

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
"""What the box head was trained on in the epoch: its samples, and the percentage of each role (NEG, PSN, PON, OS).

Roles are drawn at the loss's gamma, and at 6 nats under a loss that has none, as in stage 1; whether they matter to the
loss is another question: `train/isolated` is the percentage of foreground samples that it left out.
"""

FLIP_METRICS = (
    "roles/isolation_precision",
    "roles/isolation_recall",
    "roles/flipped_above_gamma",
    "roles/clean_above_gamma",
)
"""Percentages of foreground samples where their clean labels are known; one of no samples is absent.

Of PON those with a flipped label, of the flipped those in PON; then, whatever they were called, of the flipped and of
the clean those with a cross entropy above gamma: after stage 1 the paper has 88.5 and 2.31 (Figure 5).
"""
