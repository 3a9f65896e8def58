"""The exceptions of s2e_lens: each message says what came, what was needed, and what to do next."""


class S2EError(Exception):
    """Base of every error that s2e_lens raises on purpose; catch this one to catch them all."""


class ModelError(S2EError):
    """A model that cannot be loaded, or that lacks what was asked of it."""


class FrameError(ModelError):
    """Weights that are not the raw checkpoint's: folded, centred, in compatibility mode, or a copy."""


class NotEditableError(ModelError):
    """Weights that can be run but not edited: quantised, offloaded, or a mixture of experts."""


class MismatchError(S2EError):
    """An artefact and a model (or two artefacts) that do not belong together."""


class ShapeError(MismatchError):
    """A tensor whose shape does not fit the model it is used on."""


class ExamplesError(S2EError):
    """Contrastive examples that cannot be used; the message names the line."""


class DirectionError(S2EError):
    """Means from which no direction can be taken: identical classes, NaN, or missing per-example values."""


class PlanError(S2EError):
    """Edit settings outside their range, or a target that no setting reaches."""


class StorageError(S2EError):
    """A file that cannot be read or written: truncated, foreign, of a later version, or no room."""


class ExportError(S2EError):
    """An edit that cannot be handed on in the format that was asked for."""


class RenderError(S2EError):
    """A figure that cannot become a picture: an unknown format, or no browser to draw it; the message says what to install."""


class JudgeError(S2EError):
    """A judge of answers that cannot be reached, refuses, or does not say yes or no; the message names its URL."""


class MissingPackageError(S2EError):
    """An optional package that is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, *, extra: str, what: str):
        super().__init__(f'{what} needs the package {package}, which is not installed: pip install "s2e-lens[{extra}]".')
