"""Trainings beside each other: means over seeds, whether differences are more than chance, and pictures. No trainer."""

from .curves import draw_curves as draw_curves
from .results import TrainingResult as TrainingResult
from .results import read_training_result as read_training_result
from .significance import Difference as Difference
from .significance import RankTest as RankTest
from .significance import paired_bootstrap as paired_bootstrap
from .significance import rank_test as rank_test
from .tables import difference_table as difference_table
from .tables import markdown as markdown
from .tables import mean_and_deviation as mean_and_deviation
from .tables import mean_table as mean_table
from .tables import rank_table as rank_table
from .tables import result_table as result_table
from .tables import to_latex as to_latex
