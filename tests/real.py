"""The real data sets, where they are beside this checkout."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the real data sets are not beside this checkout")
