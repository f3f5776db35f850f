"""Channels that can only be removed together: found in the model's graph, cut, and checked."""

from paredown.modifiers.pruning.removal.channels.analysis import Analysis, analyse
from paredown.modifiers.pruning.removal.channels.configuration import configuration_of, settings_for
from paredown.modifiers.pruning.removal.channels.cutting import (
    Cut,
    Removal,
    Verified,
    commit,
    gone_at,
    labels_gone,
    with_settings,
)
from paredown.modifiers.pruning.removal.channels.fixed import fixed_places
from paredown.modifiers.pruning.removal.channels.groups import ChannelGroup, Frozen, Place, find_frozen, find_groups
from paredown.modifiers.pruning.removal.channels.products import Product, multiply_accumulates, products_of
from paredown.modifiers.pruning.removal.channels.trial import Runner, masked, runner, trial_cut
from paredown.modifiers.pruning.removal.channels.trying import Trials, verified

__all__ = [
    "Analysis",
    "ChannelGroup",
    "Cut",
    "Frozen",
    "Place",
    "Product",
    "Removal",
    "Runner",
    "Trials",
    "Verified",
    "analyse",
    "commit",
    "configuration_of",
    "find_frozen",
    "find_groups",
    "fixed_places",
    "gone_at",
    "labels_gone",
    "masked",
    "multiply_accumulates",
    "products_of",
    "runner",
    "settings_for",
    "trial_cut",
    "verified",
    "with_settings",
]
