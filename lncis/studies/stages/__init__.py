"""What trials share: the stage tree (tree.py), and the store of finished stages (store.py)."""
