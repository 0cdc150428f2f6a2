"""Reports: everything that is generated from records: the results frame, tables, scores, papers, plots."""
