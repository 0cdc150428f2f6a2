"""The mathematics that several methods share: pure functions of tensors and modules."""
