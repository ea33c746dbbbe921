"""An index behind an HTTP API, and the page on it: ``polymnia serve INDEX``."""
