"""OpenVINO told to compute in float32, on the same files."""

from functools import partial

from systems import openvino

open_network = partial(openvino.open_network, precision="f32")
"""See `systems.peer.OpenNetwork`."""
