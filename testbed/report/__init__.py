"""The page that a run leaves behind: one HTML file that needs nothing else."""

from testbed.report.page import render_page, write_report

__all__ = ["render_page", "write_report"]
