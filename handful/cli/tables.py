"""Tables of facts about many things: aligned on a terminal, elsewhere a line for each with tabs between the cells."""

from rich.console import Console
from rich.table import Table
from rich.text import Text


def plain_table(*columns: str) -> Table:
    """A table without lines; cells may have markup."""
    table = Table(box=None, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=position == 0)
    return table


def print_table(table: Table, console: Console) -> None:
    """Prints it as whoever reads needs it: people see columns, programs split at tabs."""
    if console.is_terminal:
        console.print(table)
        return
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    if table.show_header:
        rows.insert(0, tuple(column.header for column in table.columns))
    for row in rows:
        # Not through the console, which would make spaces of tabs.
        console.file.write("\t".join(_plain(str(cell)) for cell in row) + "\n")


def _plain(cell: str) -> str:
    """Without markup, and without what would end a cell or a line."""
    return " ".join(Text.from_markup(cell).plain.split())
