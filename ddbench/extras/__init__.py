"""Jobs around the benchmark: submissions, tuning, import and export, plugin kit, demo, doctor."""
