"""What strangers publish, read without PyTorch: tensors by name, and all else that a checkpoint says of its model.

Nothing in a file is executed, and a tensor is read from its file only when its numbers are asked for.
"""
