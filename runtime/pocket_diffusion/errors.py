"""Every exception of this project.

PocketDiffusionError
├── InvalidRequestError (ValueError)               a value that cannot be drawn with: steps, size, prompt, picture, …
│   ├── PictureNotFoundError (FileNotFoundError)   no picture at that path
│   └── PromptsNotFoundError (FileNotFoundError)   no file of prompts at that path
├── BundleNotFoundError (FileNotFoundError)        no bundle at that path
├── BundleFormatError (ValueError)                 a bundle.json that this version does not understand
├── BundleDamagedError (ValueError)                a file of a bundle is missing or not what it was
│   └── BundleFileMissingError (FileNotFoundError) a file that the manifest lists is not there
├── RuntimeUnavailableError (ImportError)          ONNX Runtime is not installed
├── ServerUnavailableError (ImportError)           what the server needs is not installed
├── ExtraMissingError (ImportError)                a package of another extra is not installed
├── BusyError                                      the server has no room for another drawing
├── OperatorUnavailableError (ValueError)          this ONNX Runtime lacks an operator that a bundle uses
├── ProviderUnavailableError (ValueError)          the execution provider asked for cannot be used here
├── InferenceError                                 ONNX Runtime failed while computing
│   ├── OutOfMemoryError (MemoryError)             memory, also a graphics card's, did not suffice
│   └── NotFiniteError (ArithmeticError)           a network computed what is no number
├── OutputError (OSError)                          a result cannot be written
├── Cancelled                                      raised by a caller's `on_step` to stop a run
└── ExportError                                    an export went wrong (pocket_export)
    ├── CheckpointError (ValueError)               a checkpoint that cannot be read
    │   ├── CheckpointNotFoundError (FileNotFoundError)
    │   ├── TokenizerNotFoundError (FileNotFoundError)
    │   ├── UnsafeCheckpointError                  a pickle that would run code
    │   ├── UnsupportedModelError                  a good file, but no model that can be drawn with
    │   └── TensorMismatchError                    tensors missing, left over, misshapen or not finite
    ├── OutputExistsError (FileExistsError)        the output folder is taken
    ├── ExportToolsMissingError (ImportError)      PyTorch and its company are not installed
    └── ParityError                                the graphs do not compute what PyTorch does

A message is one line: what is wrong, what is allowed, what to do next. `exit_code` is what the command line
ends with: 2 where the request was at fault, 1 where the work failed.
"""

from typing import ClassVar

from pocket_diffusion.text import one_line

_LONGEST_MESSAGE = 1000
"""Characters. A name or a value that a message shows may be a stranger's, and have millions."""


class PocketDiffusionError(Exception):
    """The root of all errors this project raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """Return the message as one printable line, whatever strangers' files and requests have put into it."""
        return one_line(super().__str__(), _LONGEST_MESSAGE)


class InvalidRequestError(PocketDiffusionError, ValueError):
    """A value that cannot be drawn with."""

    exit_code = 2


class PictureNotFoundError(InvalidRequestError, FileNotFoundError):
    """There is no picture at that path."""


class PromptsNotFoundError(InvalidRequestError, FileNotFoundError):
    """There is no file of prompts at that path."""


class BundleNotFoundError(PocketDiffusionError, FileNotFoundError):
    """There is no bundle at that path."""

    exit_code = 2


class BundleFormatError(PocketDiffusionError, ValueError):
    """A bundle.json that this version does not understand."""

    exit_code = 2


class BundleDamagedError(PocketDiffusionError, ValueError):
    """A file of a bundle is missing or not what it was when the bundle was written."""

    exit_code = 2


class BundleFileMissingError(BundleDamagedError, FileNotFoundError):
    """A file that the manifest lists is not there."""


class RuntimeUnavailableError(PocketDiffusionError, ImportError):
    """ONNX Runtime is not installed."""


class ServerUnavailableError(PocketDiffusionError, ImportError):
    """The packages of the extra `[server]` are not installed."""


class ExtraMissingError(PocketDiffusionError, ImportError):
    """A package of another extra is not installed."""


class BusyError(PocketDiffusionError):
    """The server has as many drawings waiting as it takes, or is about to stop."""


class OperatorUnavailableError(PocketDiffusionError, ValueError):
    """A bundle's graphs use an operator that this version of ONNX Runtime lacks."""

    exit_code = 2


class ProviderUnavailableError(PocketDiffusionError, ValueError):
    """The execution provider that was asked for cannot be used on this machine."""

    exit_code = 2


class InferenceError(PocketDiffusionError):
    """ONNX Runtime failed while computing."""


class OutOfMemoryError(InferenceError, MemoryError):
    """Memory did not suffice: this machine's, or its graphics card's."""


class NotFiniteError(InferenceError, ArithmeticError):
    """A network computed what is no number, such as an infinity in float16, whose largest number is 65,504."""


class OutputError(PocketDiffusionError, OSError):
    """A result cannot be written."""

    exit_code = 2


class Cancelled(PocketDiffusionError):  # noqa: N818 - a request, not a fault; the name is part of the interface
    """Raise it from `on_step` to stop a run; it passes through `Pipeline.generate` unchanged."""


class ExportError(PocketDiffusionError):
    """An export went wrong."""


class CheckpointError(ExportError, ValueError):
    """A checkpoint that cannot be read."""

    exit_code = 2


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint there, or a part of it is missing."""


class TokenizerNotFoundError(CheckpointError, FileNotFoundError):
    """There are no CLIP tokenizer files where they were looked for."""


class UnsafeCheckpointError(CheckpointError):
    """A pickle that would run code if it were trusted. It was not."""


class UnsupportedModelError(CheckpointError):
    """A readable file, but not a Stable Diffusion 1.x or 2.x model."""


class TensorMismatchError(CheckpointError):
    """Tensors are missing, left over, of the wrong shape or not finite."""


class OutputExistsError(ExportError, FileExistsError):
    """The output folder is taken."""

    exit_code = 2


class ExportToolsMissingError(ExportError, ImportError):
    """PyTorch and its company, needed for exporting, are not installed."""


class ParityError(ExportError):
    """The graphs do not compute what the PyTorch modules do; the bundle was not written."""
