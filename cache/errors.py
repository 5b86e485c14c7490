"""Errors a user can mend. Each message says what was found, what was wanted and how to mend it."""


class SevilaError(ValueError):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class FingerprintError(SevilaError):
    """A value cannot be hashed stably, so it cannot be part of an identity."""


class SchemaError(SevilaError):
    """A table does not have the columns its schema declares."""


class CorruptArtifactError(SevilaError):
    """Stored bytes do not match their checksum or record."""


class StoreError(SevilaError):
    """The store cannot do what was asked: an unknown id, an ambiguous prefix, a foreign directory."""


class MissingSourceError(SevilaError):
    """A named data set or weight folder is not on this machine, or is not what its name promises."""


class RecipeError(SevilaError):
    """A recipe names an unknown section or key, or gives a value of the wrong type."""


class CheckpointError(SevilaError):
    """Weights do not fit the model: missing, unexpected or misshapen tensors, or a tokenizer that does not fit."""


class DecodeError(SevilaError):
    """A video cannot be decoded; the message is the reason its row carries."""


class ComparisonError(SevilaError):
    """Two runs cannot be compared: they share no question, or nobody knows the right options."""
