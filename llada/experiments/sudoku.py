"""Sudoku: grids of every size up to 9 × 9, their solver, and puzzles that have one solution.

A grid is a tuple of its cells, line after line, with values 1..side and 0 where a cell is blank. Lines, columns and
boxes of rows × columns cells hold each value once; the side of a grid is rows * columns.
"""

import random
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import NamedTuple

Grid = tuple[int, ...]
_ATTEMPTS = 200  # grids of which none gives a puzzle, until there seems to be none


class Box(NamedTuple):
    """The shape of a box, and with it of the grid."""

    rows: int
    columns: int

    @property
    def side(self) -> int:
        return self.rows * self.columns

    @property
    def cells(self) -> int:
        return self.side**2

    @property
    def blank(self) -> Grid:
        return (0,) * self.cells


@cache
def units_of(box: Box) -> tuple[tuple[int, int, int], ...]:
    """For each cell the numbers of its line, column and box; in all there are 3 * side units."""
    side = box.side
    lines_and_columns = [divmod(cell, side) for cell in range(box.cells)]
    return tuple(
        (line, side + column, 2 * side + line // box.rows * box.rows + column // box.columns)
        for line, column in lines_and_columns
    )


def solutions(puzzle: Grid, box: Box, rng: random.Random | None = None) -> Iterator[Grid]:
    """The complete grids that a puzzle leaves, in the order in which they are found.

    Backtracking, the blank with the fewest possible values first; its values ascend, or come at random by `rng`.
    """
    units, grid, used = units_of(box), list(puzzle), [0] * (3 * box.side)  # used: bit v - 1 where a unit has the value
    for value, (line, column, inside) in zip(grid, units, strict=True):
        bit = 1 << value >> 1
        if bit & (used[line] | used[column] | used[inside]):
            return
        for unit in (line, column, inside):
            used[unit] |= bit
    blanks = {cell for cell, value in enumerate(grid) if not value}
    yield from _completed(grid, blanks, used, box, rng)


def _completed(
    grid: list[int], blanks: set[int], used: list[int], box: Box, rng: random.Random | None
) -> Iterator[Grid]:
    if not blanks:
        yield tuple(grid)
        return
    units, fewest, chosen, free = units_of(box), box.side + 1, 0, 0
    for cell in blanks:
        line, column, inside = units[cell]
        possible = ~(used[line] | used[column] | used[inside]) & ((1 << box.side) - 1)
        if possible.bit_count() < fewest:
            fewest, chosen, free = possible.bit_count(), cell, possible
            if fewest <= 1:
                break
    values = [value for value in range(1, box.side + 1) if free & (1 << value >> 1)]
    if rng is not None:
        rng.shuffle(values)
    blanks.remove(chosen)
    for value in values:
        for unit in units[chosen]:
            used[unit] ^= 1 << value >> 1
        grid[chosen] = value
        yield from _completed(grid, blanks, used, box, rng)
        for unit in units[chosen]:
            used[unit] ^= 1 << value >> 1
    grid[chosen] = 0
    blanks.add(chosen)


def has_one_solution(puzzle: Grid, box: Box) -> bool:
    return len(list(islice(solutions(puzzle, box), 2))) == 1


def random_grid(box: Box, rng: random.Random) -> Grid:
    """A complete grid; each one can come, not all equally often."""
    return next(solutions(box.blank, box, rng))


def random_puzzle(solution: Grid, box: Box, givens: int, rng: random.Random) -> Grid | None:
    """Cells hidden at random as long as the solution stays the only one, until so many are given.

    None where no further cell can be hidden and more are left.
    """
    puzzle, left = list(solution), box.cells
    for cell in rng.sample(range(box.cells), box.cells):
        if left == givens:
            break
        puzzle[cell] = 0
        if has_one_solution(tuple(puzzle), box):
            left -= 1
        else:
            puzzle[cell] = solution[cell]
    return tuple(puzzle) if left == givens else None


class Puzzle(NamedTuple):
    """A puzzle with its only solution."""

    given: Grid
    solution: Grid


def random_puzzles(box: Box, givens: int, count: int, rng: random.Random) -> list[Puzzle]:
    """Different puzzles of random grids. Raises ValueError where grid after grid gives none with so few cells."""
    found: dict[Grid, Puzzle] = {}
    failed = 0
    while len(found) < count:
        solution = random_grid(box, rng)
        given = random_puzzle(solution, box, givens, rng)
        if given is None or given in found:
            failed += 1
            if failed == _ATTEMPTS:
                raise ValueError(
                    f"{_ATTEMPTS} grids in a row gave no new puzzle of {givens} givens with one solution, after "
                    f"{len(found)} puzzles; ask for more givens, or fewer puzzles"
                )
            continue
        found[given], failed = Puzzle(given, solution), 0
    return list(found.values())
