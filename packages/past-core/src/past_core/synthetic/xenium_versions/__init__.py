"""Rewrites a synthetic bundle in the layout of another version of the instrument's software.

`write_bundle` writes the layout of 2.0 and 3.0; what other versions and other software do differently is done
to that bundle afterwards: `layouts` says what, `rewrite` does it, `extras` adds what bundles meet later.
"""
