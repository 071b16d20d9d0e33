"""The errors that a user can meet, each a single sentence: what, where, what to do."""


class ResNetKerasError(Exception):
    """Base of every error that this package raises on purpose."""


class DataError(ResNetKerasError):
    """Raised when pictures, labels or folders cannot be used."""


class WeightsError(ResNetKerasError):
    """Raised when weights are missing, damaged, or of another network."""


class RunError(ResNetKerasError):
    """Raised when a run folder cannot be written, read or resumed."""


class DivergedError(ResNetKerasError):
    """Raised when the loss is no longer a finite number."""


class ExportError(ResNetKerasError):
    """Raised when an export cannot be written or does not match its model."""


class WorkersError(ResNetKerasError):
    """Raised when the processes of a run cannot meet, or lose each other."""


class TuningError(ResNetKerasError):
    """Raised when a search has no trial that succeeded, or cannot be read or resumed."""
