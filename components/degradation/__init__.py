"""Make a low-quality (LQ) face from a high-quality (HQ) one: VQFR's degradation.

`recipe` says what is drawn and in which order it is applied; `blur` and `unsharp` hold the filters.
"""
