"""Figures that papers report, one file each; `ddbench.reported` reads them."""
