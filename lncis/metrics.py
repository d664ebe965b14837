"""The metric keys that trainings report; the same in Tune, MLflow, tables and the API."""

Record = dict[str, float]
"""What one epoch yielded: metric key -> value. Always there: `epoch` (finished epochs, from 1), `seconds`, `lr`."""

AP_FIGURES = ("segm_AP", "segm_AP50", "segm_AP75", "bbox_AP", "segm_AP_agnostic")
"""COCO averages in percent: masks at IoU 0.50:0.95, 0.50 and 0.75; boxes; masks with the classes ignored."""

VAL_METRICS = tuple(f"val/{figure}" for figure in AP_FIGURES)
"""On held-out scenes as noisy as the training set: what selection may look at."""

TEST_METRICS = tuple(f"test/{figure}" for figure in AP_FIGURES)
"""On clean scenes, after the last epoch: reported, never selected on."""
