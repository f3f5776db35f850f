"""What hangs together in a model: channels that can only be removed together, found, cut, and checked."""

from paredown.framework.channels.analysis import Analysis, analyse
from paredown.framework.channels.cutting import Cut, CutPlan, commit, verified
from paredown.framework.channels.groups import ChannelGroup, Frozen

__all__ = ["Analysis", "ChannelGroup", "Cut", "CutPlan", "Frozen", "analyse", "commit", "verified"]
