"""Where the tables of the commands go."""

from rich.console import Console


def table_console(width: int = 118) -> Console:
    """Standard output; as wide as the terminal, or `width` characters where it is none."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = width
    return console
