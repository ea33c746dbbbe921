"""Another data set of the same kind."""

from tube.clips import Config as Config
from tube.clips import items as items
