"""Sealed values of every format that was ever written, and what they must open to."""
