"""What the networks run on: ONNX Runtime, its sessions, and the memory that is free."""
