"""TIME_WAIT laboratories in Linux network namespaces."""

__version__ = "0.1.0"
