"""The model: torchvision's Mask R-CNN with the class loss in its heads, and its weights."""
