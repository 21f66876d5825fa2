"""The paper's experiment and what goes beyond it: settings -> runs -> measurements -> figures and report."""
