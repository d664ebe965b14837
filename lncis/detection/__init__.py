"""Mask R-CNN with the LNCIS loss in plain PyTorch: losses, models, training, evaluation, prediction. Knows no Ray."""
