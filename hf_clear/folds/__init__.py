"""Cross-fitting: in the warm-up, a few adapters are trained at once, each on its fold of the samples, and score the
samples of the others.

`adapters` holds the adapters side by side in the model's layers,
`cross_fitting` is one warm-up, and `mixin` the hooks of `Trainer` that it needs.
"""
