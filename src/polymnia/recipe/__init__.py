"""A recipe: everything that decides the result of a run, and where its parts lie. Frozen, validated, hashed."""

from polymnia.recipe.files import parse_overrides as parse_overrides
from polymnia.recipe.files import read as read
from polymnia.recipe.schema import WHERE as WHERE
from polymnia.recipe.schema import Recipe as Recipe
from polymnia.recipe.schema import StageConfig as StageConfig
from polymnia.recipe.schema import TaskConfig as TaskConfig
from polymnia.recipe.schema import WatchConfig as WatchConfig
from polymnia.recipe.schema import merge as merge
from polymnia.recipe.study import expand as expand
from polymnia.recipe.study import override as override
from polymnia.recipe.study import plan as plan
from polymnia.recipe.study import validate as validate
