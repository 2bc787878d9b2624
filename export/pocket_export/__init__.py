"""Checkpoints to bundles, with PyTorch: used once a checkpoint. `pocket_export.export.export` is the way in."""
