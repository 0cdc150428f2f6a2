"""The parts of the documentation that are made of the code's own data: what it says cannot fall behind the code."""
