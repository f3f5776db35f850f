"""The result of a run: measured, shown as text or page, and recorded with the recipe."""

from paredown.framework.report.report import Report
from paredown.framework.report.summary import Curve, LayerRow, Summary

__all__ = ["Curve", "LayerRow", "Report", "Summary"]
