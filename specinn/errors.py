"""The exceptions that specinn raises on purpose; each message says what was found and what to do."""


class SpecinnError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class ReadError(SpecinnError):
    """A file of spectra that cannot be read, or that holds no usable spectrum."""


class GridError(SpecinnError):
    """A grid of synthetic spectra that is incomplete or inconsistent."""


class ConfigError(SpecinnError):
    """A TOML file or an option with a wrong value."""


class ModelError(SpecinnError):
    """A trained model that cannot be found, loaded or applied."""


class PluginError(SpecinnError):
    """A plugin that is missing, broken or in conflict with another."""


class OutputError(SpecinnError):
    """A result that cannot be written."""


class SynthesisError(SpecinnError):
    """A spectrum that a synthesis code did not compute, or a code that is not installed."""
