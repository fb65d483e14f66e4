"""The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): random numbers as a function of counters, without a state.

Sampling and dropout have it in common. The values must never change: results of one seed depend on them.
"""

from torch import Tensor


def mixed(key: Tensor) -> Tensor:
    """A bijection of 64-bit integers (any shape) whose output bits look independent of its input; products wrap."""
    key = (key ^ shifted(key, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9 as a signed integer
    key = (key ^ shifted(key, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return key ^ shifted(key, 31)


def shifted(key: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (key >> bits) & ((1 << (64 - bits)) - 1)
