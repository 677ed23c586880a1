"""What training minimises: each loss is a module of (restored, hq) -> one number, lower is better.

Both pictures are RGB (B, 3, H, W) with [0, 1] as the range of a picture; `restored` comes from the
decoder without clamping, and each loss says what it does with values outside.
"""
