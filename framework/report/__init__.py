"""What came out of a run: measured, told, and kept."""

from paredown.framework.report.report import LayerRow, Report, Summary

__all__ = ["LayerRow", "Report", "Summary"]
