"""COCO instances files and their images: the one reader of both, for all that is done with data."""
