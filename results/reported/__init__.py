"""Figures that papers report, one file each; `ddbench.report.papers` reads them."""
