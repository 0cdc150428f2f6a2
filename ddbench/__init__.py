"""ddbench: dataset distillation, benchmarked."""
