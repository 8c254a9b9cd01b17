"""Every failure that a user can cause is an EsatError; the command line turns it into one line and exit code 2 (3 for an IncompleteError)."""

from __future__ import annotations


class EsatError(Exception):
    """Base of all errors that say what was expected and what came."""


class ConfigError(EsatError, ValueError):
    """A model, tracker or training configuration that cannot be."""


class WeightsError(EsatError, ValueError):
    """A weights file that is missing, damaged, of another model, or not a plain file of tensors; or weights that give no numbers."""


class FrameError(EsatError, ValueError):
    """A frame of the wrong type, shape or dtype."""


class BoxError(EsatError, ValueError):
    """A box that is not four finite numbers, has no area, or lies outside the frame."""


class StateError(EsatError, RuntimeError):
    """A call that the object's state does not allow, such as `update` before `init`."""


class SourceError(EsatError, OSError):
    """A video, image folder, camera or stream that cannot be read."""


class IncompleteError(SourceError):
    """A source that ended before its end. What came before is good, and outputs of it are kept: exit code 3 of the command line."""


class SinkError(EsatError, OSError):
    """An output that cannot be written."""


class DatasetError(EsatError, ValueError):
    """A data set that does not follow its layout."""


class DeviceError(EsatError, RuntimeError):
    """A device or backend that was asked for by name and is not there."""


class TableError(EsatError, ValueError):
    """A device's table of measurements that is damaged."""


class EsatWarning(UserWarning):
    """What was asked for works, but hardly as it was meant; the message names what to do instead."""
