"""The errors a person can do something about.

Each message says what was found, where (file, field), what was expected and what to do. The command
line prints them as one line and exits with 2; anything else that escapes is a defect and keeps its
traceback.
"""


class PipelineError(Exception):
    """Something a user can mend; the message says how."""


class ConfigError(PipelineError):
    """A recipe, key, value or command-line argument is wrong."""


class DataError(PipelineError):
    """A file of a data set is missing, broken or contradicts another one."""


class CheckpointError(PipelineError):
    """A checkpoint is missing, broken, of another model, or not the one that was promised."""


class StorageError(PipelineError):
    """A folder or object store cannot be read or written."""


class StageError(PipelineError):
    """A stage ended without its result."""
