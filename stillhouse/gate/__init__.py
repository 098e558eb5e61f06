"""Stage 4, candidate -> verdict: a file here is a gate, and its name is the gate's name.

A gate has a `MEASURE`, a frozen `Config` with a `threshold`, and a function `check(candidate, config, ctx)`. The
function returns a `GateResult`, or `DoesNotApply` where this model or this context has nothing of the kind. Adding a
gate is adding a file. `gating/` runs them.
"""
