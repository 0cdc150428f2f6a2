"""Jobs: one distillation or evaluation, sweeps of them, where they run, and what they will cost."""
