"""Vectors on disk and the index over them. Needs the extra ``index``; knows no models."""

from importlib.util import find_spec

from polymnia.errors import UserError

if find_spec("pyarrow") is None:
    raise UserError("vectors on disk need pyarrow, which is not installed: pip install 'polymnia[index]'")
