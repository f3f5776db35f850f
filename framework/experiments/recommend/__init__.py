"""From budgets to a recipe with its proof: which techniques, how much of each, and what that costs."""

from paredown.framework.experiments.recommend.recommend import recommend
from paredown.framework.experiments.recommend.recommendation import Recommendation

__all__ = ["Recommendation", "recommend"]
