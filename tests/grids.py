"""The rules of Sudoku, by which grids are judged."""

from llada.experiments.sudoku import Box, Grid, units_of


def is_solved(grid: Grid, box: Box) -> bool:
    """Whether every line, column and box holds each of the values once."""
    found: list[set[int]] = [set() for _ in range(3 * box.side)]
    for value, units in zip(grid, units_of(box), strict=True):
        for unit in units:
            found[unit].add(value)
    return all(unit == set(range(1, box.side + 1)) for unit in found)
