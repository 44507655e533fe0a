"""Run directories -> pages. Reads run directories only; needs no torch."""

from potstill.report.compare import Row, compare, compare_csv, compare_table
from potstill.report.write import report

__all__ = ["Row", "compare", "compare_csv", "compare_table", "report"]
