"""Stage 4, candidate -> verdict: a file here is a gate, and its name is the gate's name.

A gate has a `MEASURE`, a frozen `Config` with a `threshold`, and `check(candidate, config, ctx) -> GateResult`, or
raises `DoesNotApply` where this model has nothing of the kind. Adding a gate is adding a file.
What runs them is `gating/`.
"""
