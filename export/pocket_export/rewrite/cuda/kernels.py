"""What ONNX Runtime's CUDA kernels of fused operators accept; all else stays unfused.

Each rule names its source in github.com/microsoft/onnxruntime, below onnxruntime/contrib_ops/cuda. The kernels refuse
other sizes when they are run, not when a session is opened.
"""

DOMAIN = "com.microsoft"

_MOST_CHANNELS = 512
_SPLIT_GELU_WIDTHS = (2560, 5120, 10240)


def normalises_groups(channels: int, groups: int) -> bool:
    """Tell whether `GroupNorm` takes a feature map of so many channels in so many groups.

    A thread takes two channels of one group, and a block whole groups, up to 512 channels (`LaunchGroupNormKernel` in
    diffusion/group_norm_impl.cu; `kMaxSize` in diffusion/group_norm_common_base.h).
    """
    size = channels // groups
    return channels % groups == 0 and size % 2 == 0 and size <= _MOST_CHANNELS


def splits_gelu(width: int) -> bool:
    """Tell whether `BiasSplitGelu` takes tokens of a width, which counts both halves.

    These are the widths of all versions (diffusion/bias_split_gelu.cc); newer ones have more.
    """
    return width in _SPLIT_GELU_WIDTHS
